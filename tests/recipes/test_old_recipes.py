"""A recipe that an earlier version wrote into its run's folder."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_omni import old_names
from lightning_omni.cli import main
from lightning_omni.recipe import read_recipe

pytestmark = pytest.mark.xdist_group("workplace")
NEW = Path(__file__).parents[2] / "recipes/debug/stage3.yaml"
OLD = Path(__file__).parent / "old_config.yaml"
EXPORT = Path("runs/debug/stage3/export/model.safetensors")


def test_an_old_recipe_trains_what_the_new_one_does(workplace, beside, caplog):
    new = load_file(workplace / EXPORT)
    beside("image_tokenizer", "speech_tokenizer")
    old_names.log_once.cache_clear()  # another test may have read an old recipe
    assert main(["fit", "--config", str(OLD)]) == 0
    assert "'lightning_omni.modules.precision.BFloat16WhereFaster' is now" in caplog.text
    old = load_file(EXPORT)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], value) for name, value in new.items())
    folder = Path("runs/debug/stage3")
    assert list(folder.glob("events.*"))
    assert (folder / "checkpoints/last.ckpt").is_file()


def test_a_written_recipe_repeats_its_run(beside):
    """What a run writes names its defaults, which are then the recipe's own."""
    beside("image_tokenizer", "speech_tokenizer")
    assert main(["fit", "--config", str(NEW), "--trainer.max_steps", "2"]) == 0
    first = load_file(EXPORT)
    written = shutil.copy(EXPORT.parents[1] / "config.yaml", "written.yaml")
    callbacks = read_recipe(Path(written))["trainer"]["callbacks"]
    names = [callback["class_path"].rpartition(".")[2] for callback in callbacks]
    assert len(names) == len(set(names))
    assert {"ModelCheckpoint", "Throughput", "HealthMonitor", "ExportOmni"} < set(names)
    shutil.rmtree(EXPORT.parents[1])
    assert main(["fit", "--config", written]) == 0
    again = load_file(EXPORT)
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_classes_of_an_old_recipe_are_found_where_they_are_now():
    assert "lightning_omni.modules.precision.BFloat16WhereFaster" in OLD.read_text()
    (plugin,) = read_recipe(OLD)["trainer"]["plugins"]
    assert plugin["class_path"] == "lightning_omni.callbacks.precision_plugin.BFloat16WhereFaster"
