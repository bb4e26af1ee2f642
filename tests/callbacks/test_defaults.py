"""What a run has without its recipe naming it."""

import pytest
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from lightning_omni.callbacks.defaults import RUN_DEFAULTS, make_run_defaults
from lightning_omni.callbacks.throughput import Throughput

JOINT = "lightning_omni.modules.masked_diffusion.MaskedDiffusionModule"
IMAGE = "lightning_omni.modules.image_tokenizer.ImageTokenizerModule"
SPEECH = "lightning_omni.modules.speech_tokenizer.SpeechTokenizerModule"
OTHER = "lightning.LightningModule"
ROOT = {"default_root_dir": "runs/x", "max_steps": 100}


def names(defaults):
    return [
        (c["class_path"] if isinstance(c, dict | Namespace) else type(c).__name__).rpartition(".")[
            2
        ]
        for c in defaults["callbacks"]
    ]


@pytest.mark.parametrize(
    ("module", "last"),
    [
        (JOINT, ["ExportOmni"]),
        (IMAGE, ["Reconstructions", "ExportTokenizer"]),
        (SPEECH, ["Reconstructions", "ExportTokenizer"]),
        (OTHER, []),
    ],
)
def test_a_run_logs_saves_watches_and_exports_into_its_folder(module, last):
    defaults = make_run_defaults(ROOT, module)
    always = ["ModelCheckpoint", "PlainProgress", "Throughput", "HealthMonitor", "RunRecord"]
    assert names(defaults) == [*always, *last]
    assert defaults["logger"]["init_args"] == {"save_dir": "runs/x", "name": "", "version": ""}
    assert defaults["callbacks"][0]["init_args"] == {
        "save_last": True,
        "dirpath": "runs/x/checkpoints",
        "every_n_train_steps": 5,
    }


def test_a_recipe_s_own_callback_replaces_the_default_of_its_class():
    own = [
        {"class_path": "lightning_omni.callbacks.samples.Samples"},
        Namespace(class_path="lightning.pytorch.callbacks.EMAWeightAveraging"),
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"monitor": "x"},
        },
    ]
    defaults = make_run_defaults({**ROOT, "callbacks": own}, JOINT)
    assert names(defaults) == [
        "EMAWeightAveraging",  # the others see averaged weights
        "PlainProgress",
        "Throughput",
        "HealthMonitor",
        "RunRecord",
        "ExportOmni",  # before what may need the export
        "Samples",
        "ModelCheckpoint",
    ]
    assert defaults["callbacks"][-1]["init_args"] == {"monitor": "x"}


def test_objects_and_subclasses_count_as_well():
    class Own(Throughput):
        pass

    own = [Own(), ModelCheckpoint(), EMAWeightAveraging()]
    shown = names(make_run_defaults({**ROOT, "callbacks": own}, OTHER))
    assert shown == [
        "EMAWeightAveraging",
        "PlainProgress",
        "HealthMonitor",
        "RunRecord",
        "Own",
        "ModelCheckpoint",
    ]
    assert names(make_run_defaults({**ROOT, "callbacks": Own()}, OTHER)).count("Own") == 1


def test_defaults_are_left_out():
    assert make_run_defaults(ROOT, JOINT, []) == {"logger": None, "callbacks": []}
    kept = make_run_defaults(ROOT, JOINT, ["logger", "export"])
    assert names(kept) == ["ExportOmni"]
    off = make_run_defaults({**ROOT, "logger": False, "enable_checkpointing": False}, OTHER)
    assert off["logger"] is False
    assert "ModelCheckpoint" not in names(off)


def test_without_a_folder_nothing_is_written_beside_it():
    defaults = make_run_defaults({"max_steps": -1}, JOINT)
    assert defaults["logger"] is None
    assert not {"ExportOmni", "RunRecord"} & set(names(defaults))
    assert defaults["callbacks"][0]["init_args"] == {"save_last": True}


def test_every_default_can_be_named():
    made = {n for name in RUN_DEFAULTS for n in names(make_run_defaults(ROOT, IMAGE, [name]))}
    assert len(made) == len(RUN_DEFAULTS) - 1  # the logger is no callback
