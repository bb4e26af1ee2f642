import os
from pathlib import Path

import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.studies.experiments import training
from lightning_omni.studies.experiments.recipe import load_recipe, with_output_folder, with_settings
from lightning_omni.studies.experiments.training import (
    StageRecipe,
    find_last_checkpoint,
    plan_trainings,
    run_training,
)

DEBUG = Path(__file__).parents[3] / "recipes" / "debug" / "stage3.yaml"
RECIPE = load_recipe(DEBUG)


def stage(inputs="data", **settings):
    changed = {f"model.init_args.{name}": value for name, value in settings.items()}
    return StageRecipe(DEBUG, with_settings(RECIPE, changed), inputs)


def folders(*stages, seed=1, home="home"):
    return [t.folder for t in plan_trainings(list(stages), seed, Path(home))]


def test_the_same_training_has_the_same_folder_wherever_recipe_and_runs_lie():
    elsewhere = StageRecipe(
        Path("other.yaml"), with_output_folder(RECIPE, Path("elsewhere")), "data"
    )
    assert folders(stage()) == folders(elsewhere)
    (one,), (other,) = folders(stage()), folders(stage(), home="other")
    assert one.name == other.name
    (one, two), (other, second) = (folders(stage(), stage(), home=h) for h in ("a", "b"))
    assert (one.name, two.name) == (other.name, second.name)


def test_what_a_training_is_made_from_names_its_folder():
    found = [
        folders(stage())[0],
        folders(stage(), seed=2)[0],
        folders(stage(weight_decay=0.5))[0],
        folders(stage(inputs="other data"))[0],
        folders(stage(), stage())[1],
        folders(stage(weight_decay=0.5), stage())[1],
    ]
    assert len(set(found)) == len(found)


def test_stages_share_what_they_begin_with_and_each_starts_from_the_one_before():
    long, short = (plan_trainings([stage()] * n, 1, Path("home")) for n in (3, 2))
    assert long[:2] == short
    starts = [t.recipe["model"]["init_args"].get("init_from") for t in long]
    assert starts == [None, str(long[0].export_folder), str(long[1].export_folder)]
    for each in long:
        assert each.recipe["trainer"]["default_root_dir"] == str(each.folder)


def test_a_later_stage_forgets_where_its_own_recipe_started():
    assert folders(stage(), stage(init_from="elsewhere")) == folders(stage(), stage())
    assert folders(stage(init_from="elsewhere")) != folders(stage())


def test_the_newest_checkpoint_is_the_last(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    for age, name in enumerate(("last-v1.ckpt", "last.ckpt", "step=9.ckpt")):
        path = tmp_path / "checkpoints" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (100 - age, 100 - age))
    assert find_last_checkpoint(tmp_path).name == "last-v1.ckpt"


def test_a_failed_training_names_variant_seed_log_and_its_last_line(tmp_path, monkeypatch):
    def fit(folder, lock, device):
        (folder / "training.log").write_text("starting\nerror: no shards\n\n")
        return 2

    monkeypatch.setattr(training, "_run_fit", fit)
    (planned,) = plan_trainings([stage()], 1, tmp_path)
    message = r"variant 'a', seed 1: .*training\.log'; it ends with: error: no shards$"
    with pytest.raises(OmniError, match=message):
        run_training(planned, variant="a", seed=1, device=torch.device("cpu"))
    assert not planned.is_done


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("cpu", ["--trainer.accelerator", "cpu"]),
        ("cuda:1", ["--trainer.accelerator", "gpu", "--trainer.devices", "[1]"]),
    ],
)
def test_a_training_runs_on_the_device_that_was_asked_for(tmp_path, monkeypatch, device, wanted):
    class Done:
        returncode = 0

    ran = []
    monkeypatch.setattr(
        training.subprocess, "run", lambda command, **_: ran.append(command) or Done
    )
    assert training._run_fit(tmp_path, 0, torch.device(device)) == 0
    assert ran[0][-len(wanted) - 2 :] == [*wanted, "--ckpt_path", "last"]


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    runs = []

    def fit(folder, lock, device):
        (folder / "export").mkdir()
        (folder / "export" / "config.json").touch()
        runs.append(folder)
        return 0

    monkeypatch.setattr(training, "_run_fit", fit)
    (planned,) = plan_trainings([stage()], 1, tmp_path)
    for _ in range(2):
        run_training(planned, variant="a", seed=1, device=torch.device("cpu"))
    assert runs == [planned.folder]
    assert planned.wall_seconds() >= 0
