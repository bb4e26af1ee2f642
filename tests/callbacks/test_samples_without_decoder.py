"""A run whose speech tokenizer only encodes logs answers that are not spoken, and says so."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_omni.cli import main
from lightning_omni.tokenizers.speech import SpeechTokenizer

RECIPE = str(Path(__file__).parents[2] / "recipes/debug/stage3.yaml")
SAMPLES = (
    '[{"class_path": "lightning_omni.callbacks.samples.Samples", '
    '"init_args": {"every_n_steps": 1, "num_per_task": 1, "seed": 0}}]'
)
pytestmark = pytest.mark.xdist_group("workplace")


def test_tasks_that_speak_are_left_out_and_named(beside, tmp_path, monkeypatch, caplog):
    beside("image_tokenizer", "speech_tokenizer")
    monkeypatch.setattr(SpeechTokenizer, "can_decode", False)
    monkeypatch.setattr(SpeechTokenizer, "decode", lambda *_: pytest.fail("it decoded"))
    options = ["--trainer.callbacks", SAMPLES, "--trainer.max_steps", "1"]
    assert main(["fit", "--config", RECIPE, "--data.tasks", "{asr: 1, tts: 1}", *options]) == 0
    assert "no speech and no answers to tts are logged: 'runs/debug/speech_tok" in caplog.text
    found = EventAccumulator(str(tmp_path / "runs/debug/stage3"))
    found.Reload()
    assert found.Tags()["tensors"].count("samples/asr/text/text_summary") == 1
    assert not any(tag.startswith("samples/tts") for tag in found.Tags()["tensors"])
    assert not found.Tags()["audio"]
