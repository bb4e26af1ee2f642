"""Speech as features, from shards to an answer, through the real command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_omni.cli import main
from lightning_omni.data.shards import read_samples
from lightning_omni.data.speech_feature_files import user_speech_parts
from lightning_omni.errors import OmniError
from lightning_omni.generation.omni import Omni
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder

RECIPE = str(Path(__file__).parents[2] / "recipes/debug/continuous_speech.yaml")
EXPORT = "runs/debug/continuous_speech/export"
HEARS = ["--continuous_speech.encoder", "torch.nn.Identity"]
pytestmark = pytest.mark.xdist_group("workplace")


@pytest.fixture(scope="module")
def heard(trained):
    """The folder of `trained` with a model that hears features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        assert main(["fit", "--config", RECIPE]) == 0
    return trained


@pytest.fixture
def place(heard, monkeypatch):
    monkeypatch.chdir(heard)
    rng = np.random.default_rng(0)
    soundfile.write("in.wav", rng.normal(0, 0.1, 16000), 16000)
    return heard


def generate(*more):
    given = ["--task", "asr", "--audio", "in.wav", "--model", EXPORT, "--out", "heard"]
    return main(["generate", *given, *more])


def test_the_encoder_s_frames_lie_beside_the_samples_and_discrete_folders_have_none(place):
    folders = [p.parent for p in Path("data/smoke/codes").glob("*/manifest.json")]
    by_kind = {
        "heard" in json.loads((f / "manifest.json").read_text())["hashes"]: f for f in folders
    }
    assert set(by_kind) == {True, False}
    for has_frames, folder in by_kind.items():
        samples = read_samples(folder, "asr", "train")
        assert samples
        for part in (p for s in samples for p in user_speech_parts(s)):
            assert (part.features is not None) == has_frames
            assert not has_frames or part.features.shape[1] == 560
    assert not list(Path("data/smoke/codes").glob("*.heard"))


def test_the_model_is_evaluated_and_answers_what_it_hears(place):
    results = json.loads(Path("runs/debug/continuous_speech/eval/results.json").read_text())
    assert {row["task"] for row in results["rows"]} == {"s2i", "t2i"}
    assert generate(*HEARS) == 0
    assert Path("heard.txt").is_file()


def test_sampling_configs_of_a_model_with_an_encoder_are_compared(place):
    configs = ["--configs", '{"balanced": {}, "few": {"num_steps": 2}}', "--tasks", "[s2i]"]
    limits = ["--split", "val", "--limit", "1", "--speech_limit", "1", "--seed", "7"]
    args = ["calibrate", "--model", EXPORT, "--data", "data/smoke", "--out", "configs"]
    assert main([*args, *configs, *limits, *HEARS]) == 0
    rows = json.loads(Path("configs/calibration.json").read_text())["rows"]
    assert {row["config"] for row in rows} == {"balanced", "few"}


def test_without_its_encoder_it_does_not_answer_speech_and_says_why(place, capsys):
    assert generate() == 2
    assert "give continuous_speech as in the recipe" in capsys.readouterr().err
    assert generate(*HEARS, "--intervals", "0.1-0.2") == 2
    assert "cut the sound instead" in capsys.readouterr().err
    given = ["--task", "t2i", "--text", "a cat", "--model", EXPORT, "--out", "drawn"]
    assert main(["generate", *given]) == 0


def test_an_encoder_that_it_was_not_trained_with_is_refused(place, capsys):
    assert generate("--continuous_speech.encoder", "torch.nn.Flatten") == 2
    assert "but the model was trained with" in capsys.readouterr().err


def test_a_model_of_tokens_alone_is_given_no_encoder(place, capsys):
    given = ["--task", "asr", "--audio", "in.wav", "--model", "shipped"]
    assert main(["generate", *given, *HEARS]) == 2
    assert "needs the token <|context_of_audio|>" in capsys.readouterr().err


def test_the_answer_depends_on_the_sound_through_its_features(place):
    omni = Omni.from_pretrained(EXPORT, continuous_speech=SpeechFeatureEncoder(torch.nn.Identity()))
    rng = np.random.default_rng(1)
    rate = omni.speech_tokenizer.sample_rate
    sample = omni.encode_request("asr", speech=rng.normal(0, 0.1, rate).astype(np.float32))
    (part,) = user_speech_parts(sample)
    assert part.features.shape == (17, 560)
    assert part.codes
    bare = read_samples(next(Path("data/smoke").glob("tasks")), "asr", "train", limit=1)
    with pytest.raises(OmniError, match="holds speech as codes"):
        omni.answer([sample.unanswered() for sample in bare], seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--data.special_tokens", "own"], "set special_tokens: released"),
        (["--data.continuous_speech", "null"], "speech of asr is given as codes"),
        (["--model.backbone.init_args.continuous_dim", "512"], "set continuous_dim: 560"),
    ],
)
def test_recipes_whose_parts_do_not_fit_are_refused(place, capsys, changes, words):
    assert main(["fit", "--config", RECIPE, *changes]) == 2
    assert words in capsys.readouterr().err
