"""A resumed run: which checkpoint it takes, what it takes from it, and what it says."""

import json
import logging
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from lightning_omni.callbacks.checkpoint_names import _pattern_of
from lightning_omni.callbacks.recipe_differences import (
    changes_network,
    describe_differences,
    find_differences,
    flatten_recipe,
)
from lightning_omni.callbacks.resume import verify_checkpoints
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.errors import OmniError
from lightning_omni.modules.checkpoint_file import checksum_file
from lightning_omni.optim.optimizer import build_optimizer_and_schedule
from lightning_omni.recipe import find_config, next_config_name

pytestmark = pytest.mark.filterwarnings("ignore:.*")


class Line(L.LightningModule):
    """A module whose rates are noted."""

    def __init__(self, lr=1e-3, weight_decay=0.01, total_steps=20, kind=torch.optim.AdamW, width=3):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(width, 2)
        self.weight_decay, self.warmup_steps, self.total_steps = weight_decay, 2, total_steps
        self.final_lr_share, self.noted, self.width = 0.1, [], width
        self.optimizer_factory = lambda groups: kind(groups, lr=lr)

    def training_step(self, x, index):
        group = self.optimizers().param_groups[0]
        self.noted.append((group["lr"], group["weight_decay"]))
        loss = self.layer(x[:, : self.width]).square().mean()
        self.log("loss", loss)
        self.log("other", loss)
        return loss

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(500, 9))

    def configure_optimizers(self):
        optimizer, schedule = build_optimizer_and_schedule(self, self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder, steps, module=None, *, ckpt_path="last", every=2, recipe=None, **keeper):
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(
                folder / "checkpoints", **{"save_last": True, "every_n_train_steps": every} | keeper
            )
        ],
    )
    verify_checkpoints(trainer, recipe)
    module = module or Line()
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


def raiser(error):
    def fail(*_, **__):
        raise error

    return fail


def names(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir() if p.suffix == ".ckpt")


def test_a_moved_run_goes_on_in_its_new_place_and_at_another_rhythm(tmp_path):
    fit(tmp_path / "a", 4)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(fit(tmp_path / "b", 9, every=3).noted) == 5
    assert names(tmp_path / "b") == ["epoch=0-step=9.ckpt", "last.ckpt"]
    assert not (tmp_path / "a").exists()


def test_the_newest_is_what_was_saved_last_whatever_the_times_of_the_files(tmp_path, caplog):
    fit(tmp_path, 4)
    shutil.copy(tmp_path / "checkpoints/last.ckpt", tmp_path / "old.ckpt")
    shutil.copy(checksum_file(tmp_path / "checkpoints/last.ckpt"), tmp_path / "old.sha256")
    fit(tmp_path, 6)
    shutil.copy(tmp_path / "old.ckpt", tmp_path / "checkpoints/last.ckpt")
    shutil.copy(tmp_path / "old.sha256", checksum_file(tmp_path / "checkpoints/last.ckpt"))
    assert len(fit(tmp_path, 8).noted) == 2
    assert names(tmp_path) == ["epoch=0-step=8.ckpt", "last.ckpt"]


def test_a_damaged_last_is_said_and_the_step_before_goes_on(tmp_path, caplog):
    fit(tmp_path, 4)
    last = tmp_path / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-3])
    assert len(fit(tmp_path, 6).noted) == 2
    assert "last.ckpt' is damaged (it differs from its checksum in last.ckpt.sha256)" in caplog.text
    assert "the newest valid checkpoint is" in caplog.text
    assert names(tmp_path) == ["epoch=0-step=6.ckpt", "last.ckpt"]


def test_a_newer_last_without_its_checksum_is_said_to_count_as_older(tmp_path, caplog):
    fit(tmp_path, 4)
    last = tmp_path / "checkpoints/last.ckpt"
    checksum_file(last).unlink()
    assert len(fit(tmp_path, 6).noted) == 2
    assert f"{last}' has no readable checksum, so it counts as older (give it as" in caplog.text
    caplog.clear()
    fit(tmp_path, 8)
    assert "no readable checksum" not in caplog.text


def test_no_valid_checkpoint_is_an_error_and_none_at_all_is_said(tmp_path, caplog):
    assert len(fit(tmp_path, 2).noted) == 2
    assert "so the run begins at step 0" in caplog.text
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"noise")
    with pytest.raises(OmniError, match="there are checkpoints but none is valid"):
        fit(tmp_path, 4)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "checkpoints/mine.ckpt").touch()
    with pytest.raises(OmniError, match=r"mine\.ckpt' has another name"):
        fit(tmp_path, 4)


def test_a_run_without_last_goes_on_from_its_step(tmp_path):
    fit(tmp_path, 4)
    (tmp_path / "checkpoints/last.ckpt").unlink()
    assert len(fit(tmp_path, 6).noted) == 2
    assert names(tmp_path) == ["epoch=0-step=6.ckpt", "last.ckpt"]


def test_stale_and_torn_files_of_the_run_are_deleted_and_others_stay(tmp_path, caplog):
    fit(tmp_path, 4)
    folder = tmp_path / "checkpoints"
    for end in (".ckpt", ".ckpt.sha256"):
        shutil.copy(folder / f"last{end}", folder / f"epoch=0-step=2{end}")
    shutil.copy(folder / "last.ckpt", folder / "epoch=0-step=3.ckpt")  # of whom is not known
    (folder / "epoch=0-step=8.ckpt").write_bytes(b"PK torn")
    (folder / "mine.ckpt").touch()
    (folder / ".last.ckpt.partial").touch()
    (folder / ".epoch=0-step=2.ckpt.partial").mkdir()
    (folder / "epoch=0-step=7.ckpt.sha256").touch()
    (folder / ".mine.partial").touch()
    fit(tmp_path, 6)
    kept = {path.name for path in folder.iterdir() if path.suffix != ".sha256"}
    others = {"epoch=0-step=3.ckpt", "mine.ckpt", ".mine.partial"}
    assert kept == {"epoch=0-step=6.ckpt", "last.ckpt", *others}
    assert "deleted what earlier starts of the run left" in caplog.text


def test_a_run_with_another_monitor_leaves_the_best_of_the_earlier_one(tmp_path):
    fit(tmp_path, 6, monitor="loss", save_top_k=2)
    before = set(names(tmp_path))
    assert len(before) == 3
    fit(tmp_path, 8, monitor="other", save_top_k=2)
    assert before < set(names(tmp_path))


def test_what_cannot_be_deleted_is_said(tmp_path, caplog, monkeypatch):
    fit(tmp_path, 4)
    (tmp_path / "checkpoints/.epoch=0-step=2.ckpt.partial").mkdir()
    monkeypatch.setattr(shutil, "rmtree", raiser(PermissionError(13, "Permission denied")))
    fit(tmp_path, 6)
    assert "partial' (Permission denied), which is not needed" in caplog.text


@pytest.mark.parametrize(
    ("template", "inserts", "name"),
    [
        ("epoch={epoch}-val_loss={val/loss:.2f}", False, "epoch=3-val_loss=0.25.ckpt"),
        ("best/{epoch}-{step}", True, "epoch=0-step=4-v1.ckpt"),
        ("run-{step:06d}", True, "run-step=000012.ckpt"),
    ],
)
def test_names_of_usual_templates_are_recognised(template, inserts, name):
    assert _pattern_of(template, inserts).fullmatch(name)


def test_last_at_a_url_is_found_by_lightning(tmp_path, monkeypatch):
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(tmp_path, save_last=True)],
    )
    verify_checkpoints(trainer)
    trainer.checkpoint_callback.dirpath = "s3://bucket/run"
    asked = []
    monkeypatch.setattr(
        _CheckpointConnector, "_parse_ckpt_path", lambda _, fn, path, *__: asked.append(path)
    )
    trainer._checkpoint_connector._parse_ckpt_path("fit", "last", True, True)
    assert asked == ["last"]


class Counts(torch.optim.SGD):
    """An optimizer that keeps a running state in its groups."""

    def __init__(self, params, lr=0.1, momentum=0.0):
        super().__init__(params, lr=lr, momentum=momentum)
        self.defaults["k"] = 0
        for group in self.param_groups:
            group["k"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
        return super().step(closure)


def test_a_state_in_the_groups_of_an_optimizer_goes_on(tmp_path):
    fit(tmp_path, 4, Line(kind=Counts))
    module = fit(tmp_path, 6, Line(kind=Counts))
    assert module.optimizers().param_groups[0]["k"] == 6


def test_a_run_from_the_beginning_leaves_an_earlier_one_alone_and_says_so(tmp_path, caplog):
    fit(tmp_path, 4)
    fit(tmp_path, 2, ckpt_path=None)
    assert "this one begins at step 0; --ckpt_path last goes on" in caplog.text
    assert {"epoch=0-step=4.ckpt", "last.ckpt"} < set(names(tmp_path))


def test_all_steps_stay_where_all_are_kept_and_a_rewound_run_deletes_none(tmp_path):
    fit(tmp_path, 6, save_top_k=-1)
    fit(tmp_path, 4, ckpt_path=tmp_path / "checkpoints/epoch=0-step=2.ckpt", save_top_k=-1)
    assert {f"epoch=0-step={step}.ckpt" for step in (2, 4, 6)} < set(names(tmp_path))
    assert len(fit(tmp_path, 6, save_top_k=-1).noted) == 2  # from the branch that was saved last


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"lr": 0.5}, (0.5, 0.01)),
        ({"weight_decay": 0.5}, (1e-3, 0.5)),
        ({"total_steps": 8}, (1e-3, 0.01)),
        ({}, (1e-3, 0.01)),
    ],
)
def test_rates_and_weight_decay_are_those_stated_now(tmp_path, changed, wanted):
    whole = fit(tmp_path / "whole", 8, Line(**changed)).noted
    fit(tmp_path / "run", 4)
    resumed = fit(tmp_path / "run", 8, Line(**changed)).noted
    assert resumed == whole[4:]
    assert max(rate for rate, _ in whole) == pytest.approx(wanted[0])
    assert {decay for _, decay in resumed} == {wanted[1]}
    assert fit(tmp_path / "run", 10, Line(**changed)).noted[0][1] == wanted[1]


def test_another_optimizer_or_model_is_refused_with_the_difference(tmp_path):
    fit(tmp_path, 2)
    with pytest.raises(OmniError, match=r"the state of another optimizer than the recipe's SGD"):
        fit(tmp_path, 4, Line(kind=torch.optim.SGD))
    with pytest.raises(OmniError, match=r"layer\.weight 2 x 5 \(checkpoint: 2 x 3\)"):
        fit(tmp_path, 4, Line(width=5))
    fit(tmp_path / "light", 2, save_weights_only=True)
    with pytest.raises(OmniError, match=r"holds weights alone"):
        fit(tmp_path / "light", 4)
    with pytest.raises(OmniError, match=r"holds weights alone"):
        fit(tmp_path / "light", 4, ckpt_path=tmp_path / "light/checkpoints/last.ckpt")


def test_a_run_that_keeps_weights_goes_on_from_what_a_stop_saved(tmp_path):
    fit(tmp_path, 2, save_weights_only=True, save_last=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    verify_checkpoints(trainer)
    trainer.fit(Line())
    trainer.save_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert len(fit(tmp_path, 4, save_weights_only=True, save_last=False).noted) == 1


def recipe(lr=0.001, dim=32, optimizer="torch.optim.AdamW", vocab=64, max_steps=4):
    return {
        "trainer": {
            "max_steps": max_steps,
            "callbacks": [{"class_path": "a.EMA", "init_args": {"decay": 0.9}}],
        },
        "data": {"class_path": "b.Data", "init_args": {"vocab": {"text": vocab}, "rows": 2}},
        "model": {
            "class_path": "c.Model",
            "init_args": {
                "backbone": {"class_path": "d.Net", "init_args": {"dim": dim}},
                "optimizer": {"class_path": optimizer, "init_args": {"lr": lr}},
            },
        },
    }


def test_every_difference_is_said_and_what_cannot_change_is_refused(tmp_path, caplog):
    fit(tmp_path, 2, recipe=recipe())
    with pytest.raises(OmniError, match=r"model\.backbone\.dim 64 \(checkpoint: 32\)"):
        fit(tmp_path, 4, recipe=recipe(dim=64))
    with pytest.raises(OmniError, match=r"data\.vocab\.text 65 \(checkpoint: 64\)"):
        fit(tmp_path, 4, recipe=recipe(vocab=65))
    with pytest.raises(OmniError, match=r"model\.optimizer d\.Muon \(checkpoint: torch\.optim"):
        fit(tmp_path, 4, recipe=recipe(optimizer="d.Muon"))
    caplog.clear()
    fit(tmp_path, 4, recipe=recipe(lr=0.5))
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert sum("model.optimizer.lr 0.5 (checkpoint: 0.001)" in line for line in said) == 1
    assert not any("data.rows" in line for line in said)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt")["run"]
    assert json.loads(saved["settings"])["model.optimizer.lr"] == 0.5


def test_settings_have_names_without_lists_and_arguments():
    before, now = flatten_recipe(recipe()), flatten_recipe(recipe(lr=2, dim=8))
    assert before["trainer.callbacks.EMA.decay"] == 0.9
    found = find_differences(before, now)
    assert found == ["model.backbone.dim", "model.optimizer.lr"]
    assert [changes_network(name, before, now) for name in found] == [True, False]
    assert describe_differences(found[1:], before, {}) == (
        "model.optimizer.lr none (checkpoint: 0.001)"
    )


class Data(ResumableData):
    """Data with a position."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(500, 9))


def test_a_checkpoint_without_a_position_in_the_data_is_refused(tmp_path):
    fit(tmp_path, 2)  # without a data module
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    verify_checkpoints(trainer)
    with pytest.raises(OmniError, match=r"has no position in the data \(Data\)"):
        trainer.fit(Line(), Data(), ckpt_path=tmp_path / "checkpoints/last.ckpt")


def test_each_start_has_a_recipe_of_its_own(tmp_path):
    assert find_config(tmp_path) is None
    for number, name in enumerate(("config.yaml", "config.start-2.yaml", "config.start-3.yaml")):
        assert next_config_name(tmp_path) == name
        Path(tmp_path, name).write_text(str(number))
    Path(tmp_path, "config.start-10.yaml").touch()
    assert find_config(tmp_path).name == "config.start-10.yaml"
