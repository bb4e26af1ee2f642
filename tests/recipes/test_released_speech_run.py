"""Speech as the release has it, features in and codes out, through the real command line."""

import json
from pathlib import Path

import numpy as np
import published_speech
import pytest
import soundfile

from lightning_omni.cli import main
from lightning_omni.data.shards import read_samples
from lightning_omni.data.speech_feature_files import user_speech_parts

RECIPE = str(Path(__file__).parents[2] / "recipes/debug/released_speech.yaml")
EXPORT = "runs/debug/released_speech/export"
ENCODER = [
    *("--continuous_speech", "lightning_omni.interop.sense_voice.SenseVoice"),
    *("--continuous_speech.folder", "checkpoints/SenseVoiceSmall"),
]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workplace")]


@pytest.fixture
def run(beside, tmp_path):
    beside("image_tokenizer", "speech_tokenizer")
    published_speech.write_released_folders(tmp_path / "checkpoints")
    folders = {
        "--input": "checkpoints/glm-4-voice-tokenizer",
        "--decoder": "checkpoints/glm-4-voice-decoder",
        "--output": "checkpoints/glm-4-voice",
    }
    options = [word for pair in folders.items() for word in pair]
    assert main(["import", "--from", "glm-4-voice", *options]) == 0
    features = ["--model.code_feature_dims", '{"image": 6, "speech": 16}']  # of the small codebook
    assert main(["fit", "--config", RECIPE, "--trainer.max_steps", "2", *features]) == 0
    return tmp_path


def test_requests_are_features_answers_are_codes_and_the_model_speaks_at_its_decoder_s_rate(
    run, capsys
):
    (folder,) = (
        path.parent
        for path in Path("data/smoke/codes").glob("*/manifest.json")
        if json.loads(path.read_text())["tokens_per_second"] == 12.5
    )
    for sample in read_samples(folder, "sqa", "train"):
        (question,) = user_speech_parts(sample)
        (spoken,) = (p for p in sample.turns[-1].parts if p.modality == "speech")
        assert question.features.shape[1] == 512
        assert spoken.features is None
        assert 0 <= min(spoken.codes) <= max(spoken.codes) < 16384
        assert len(set(spoken.codes)) > 1
    soundfile.write("in.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    options = ["--model", EXPORT, "--out", "said", "--num_steps", "2", *ENCODER]
    assert main(["generate", "--task", "sqa", "--audio", "in.wav", *options]) == 0
    wave, rate = soundfile.read("said.wav")
    record = json.loads(Path("said.json").read_text())
    spoken = [part for part in record["parts"].values() if part["modality"] == "speech"]
    assert rate == 22_050
    assert len(wave) == 1764 * sum(part["positions"] for part in spoken) > 0
    assert 0 < np.abs(wave).max() <= 0.99
    assert main(["generate", "--task", "sqa", "--audio", "in.wav", *options[:-4]]) == 2
    assert "give continuous_speech as in the recipe" in capsys.readouterr().err
