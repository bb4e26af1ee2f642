"""The released joint model, its tokenizers and its speech encoder become a model that generates."""

import json
import shutil

import numpy as np
import published_speech
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file
from small_models import QWEN_SHAPE

from lightning_omni.cli import main
from lightning_omni.generation.generator import PartGenerator
from lightning_omni.interop import Backbone, command
from lightning_omni.interop.export import export_model
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.image import ImageTokenizer

IDS = 176_264
SMALL = {**QWEN_SHAPE, "dim": 16, "ffn_dim": 16, "num_layers": 1}
ENCODER = [
    *("--continuous_speech", "lightning_omni.interop.sense_voice.SenseVoice"),
    *("--continuous_speech.folder", "SenseVoiceSmall"),
]
WHOLE = ["--image_tokenizer", "image", "--speech_tokenizer", "speech"]


def write_release(folder, rows=IDS):
    torch.manual_seed(1)
    model = Transformer(rows, [], **SMALL, continuous_dim=512)
    Backbone(model, right_shift_logits=True).save_pretrained(folder / "own")
    export_model(folder / "own", "hf", folder / "published")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Published folders, small inside, and what `import` makes of the tokenizers."""
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        published_speech.write_released_folders(folder)
        write_release(folder)
        sizes = {"channels": 4, "groups": 2, "encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}
        multipliers = {"encoder_multipliers": [1, 1], "decoder_multipliers": [1, 1]}
        image = ImageTokenizer(8, bits=13, **sizes, **multipliers)
        image.save_pretrained("image")
        args = ["--input", "glm-4-voice-tokenizer", "--decoder", "glm-4-voice-decoder"]
        assert main(["import", "--from", "glm-4-voice", *args, "--output", "speech"]) == 0
    return folder


@pytest.fixture
def current(release, monkeypatch):
    monkeypatch.chdir(release)
    return release


def import_release(output, *more):
    folders = ["--input", "published", "--output", str(output)]
    return main(["import", "--from", "omni-diffusion", *folders, *more])


def generate(model, task, *more):
    options = ["--response_length", "7", "--num_steps", "2", "--model", str(model), *ENCODER]
    return main(["generate", "--task", task, *options, *more])


def test_it_transcribes_a_recording_and_speaks_a_sentence(current, tmp_path, capsys):
    assert import_release(tmp_path / "omni", *WHOLE) == 0
    soundfile.write(tmp_path / "in.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    recording = ["--audio", str(tmp_path / "in.wav")]
    assert generate(tmp_path / "omni", "asr", *recording, "--out", str(tmp_path / "words")) == 0
    assert json.loads((tmp_path / "words.json").read_text())["parts"]["0"]["positions"] == 7
    spoken = ["--text", "hello", "--out", str(tmp_path / "said")]
    assert generate(tmp_path / "omni", "tts", *spoken) == 0
    wave, rate = soundfile.read(tmp_path / "said.wav")
    assert rate == 22_050
    ids = json.loads((tmp_path / "said.json").read_text())["parts"]["0"]["ids"]
    is_code = [151_688 <= i < 151_688 + 16_384 for i in ids]
    assert len(wave) == 1764 * (is_code.index(False) if False in is_code else len(ids)) > 0
    capsys.readouterr()
    options = ["--model", str(tmp_path / "omni"), *ENCODER]
    assert main(["generate", "--task", "asr", *recording, *options]) == 2
    assert "it knows no task's lengths, and takes a length from resp" in capsys.readouterr().err


def test_infilled_speech_is_the_user_s_own_at_the_decoder_s_rate_but_for_an_interval(
    current, tmp_path
):
    assert import_release(tmp_path / "omni", *WHOLE) == 0
    own = np.random.default_rng(0).normal(0, 0.1, 10 * 1280 + 7).astype(np.float32)
    soundfile.write(tmp_path / "own.wav", own, 16000, subtype="FLOAT")
    given = ["--text", "hello", "--audio", str(tmp_path / "own.wav"), "--intervals", "0.2-0.3"]
    options = ["--num_steps", "2", "--model", str(tmp_path / "omni"), *ENCODER]
    assert (
        main(["generate", "--task", "tts", *given, "--out", str(tmp_path / "new"), *options]) == 0
    )
    wave, rate = soundfile.read(tmp_path / "new.wav")
    expected = soxr.resample(own, 16_000, 22_050)
    assert rate == 22_050
    assert len(wave) == len(expected)
    begin, end = 2 * 1764, 4 * 1764  # codes 2 and 3, of 80 ms each
    np.testing.assert_allclose(wave[:begin], expected[:begin], atol=1e-4)
    np.testing.assert_allclose(wave[end:], expected[end:], atol=1e-4)
    assert np.abs(wave[begin:end] - expected[begin:end]).max() > 0.01


def test_its_weights_and_ids_are_the_release_s(current, tmp_path):
    assert import_release(tmp_path / "omni", *WHOLE) == 0
    assert import_release(tmp_path / "alone") == 0
    whole, alone = (load_file(tmp_path / f / "model.safetensors") for f in ("omni", "alone"))
    assert {f"transformer.{name}" for name in whole} == set(alone)
    assert all(torch.equal(value, alone[f"transformer.{name}"]) for name, value in whole.items())
    vocab = json.loads((tmp_path / "omni" / "vocab.json").read_text())
    assert vocab["text_ranks"] == "qwen"
    assert vocab["request_image_columns"] == 256  # 512 pixels, two of which this one makes a code


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (WHOLE[:2], "needs --image_tokenizer and --speech_tokenizer; give both"),
        ([*WHOLE[:3], "image"], "--speech_tokenizer 'image' holds a ImageTokenizer of 8192 codes"),
        (["--image_tokenizer", "speech", *WHOLE[2:]], "holds a Glm4VoiceTokenizer of 16384 codes"),
        ([*WHOLE[:3], "nowhere"], "no config.json in 'nowhere'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(current, tmp_path, capsys, more, words):
    assert import_release(tmp_path / "omni", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "omni").exists()


def no_copy(*args, **kwargs):
    pytest.fail("the backbone was copied first")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda file: file.unlink(),
            "--speech_tokenizer '{}' has no model.safetensors; import the",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:999]), "model.safetensors' is damaged"),
        (
            lambda file: save_file({"a": torch.ones(1)}, file),
            "the weights do not fit '{}': 1 unexpected (a)",
        ),
    ],
)
def test_weights_of_tokenizers_are_looked_at_before_the_backbone_is_copied(
    current, tmp_path, capsys, monkeypatch, damage, words
):
    shutil.copytree("speech", tmp_path / "speech")
    damage(tmp_path / "speech" / "model.safetensors")
    monkeypatch.setattr(command, "copy_weights", no_copy)
    whole = [*WHOLE[:3], str(tmp_path / "speech")]
    assert import_release(tmp_path / "omni", *whole) == 2
    assert words.format(tmp_path / "speech") in capsys.readouterr().err


def test_without_a_decoder_it_says_at_import_and_before_it_generates_that_it_cannot_speak(
    current, tmp_path, capsys, caplog, monkeypatch
):
    args = ["--input", "glm-4-voice-tokenizer", "--output", str(tmp_path / "speech")]
    assert main(["import", "--from", "glm-4-voice", *args]) == 0
    caplog.clear()
    assert import_release(tmp_path / "omni", *WHOLE[:3], str(tmp_path / "speech")) == 0
    assert "has no decoder, so the model will not speak; to let it, import glm" in caplog.text
    monkeypatch.setattr(PartGenerator, "generate", no_copy)
    spoken = ["--text", "hello", "--out", str(tmp_path / "said")]
    assert generate(tmp_path / "omni", "tts", *spoken) == 2
    assert "nothing can be spoken; import it again with --decoder" in capsys.readouterr().err


def test_other_ids_and_other_kinds_are_refused(current, tmp_path, capsys):
    write_release(tmp_path, rows=1000)
    args = ["--output", str(tmp_path / "omni"), *WHOLE]
    published = ["--input", str(tmp_path / "published")]
    assert main(["import", "--from", "omni-diffusion", *published, *args]) == 2
    assert "has 1000 ids but Omni-Diffusion has 176264" in capsys.readouterr().err
    assert main(["import", "--from", "dream", *published, *args]) == 2
    assert "tokenizers make omni-diffusion a whole model, but --from" in capsys.readouterr().err
