"""The same packed batches give the same training on any number of processes, shared or not."""

import warnings
from functools import partial
from itertools import count

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from several_processes import run_processes
from test_training_on_features import batches, module
from torch.distributed.tensor import DTensor

from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.modules.checkpoint_folder import is_checkpoint_folder, read_checkpoint_folder
from lightning_omni.modules.sharding import ShardedStrategy, gather_weights, is_sharded
from lightning_omni.optim.muon import MuonAdamW

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


class Dealt(ResumableData):
    """Packed batches that are dealt to the processes in turn."""

    def train_dataloader(self):
        packed = batches(count=80, rows=1)

        def open_lane(lane, position):
            for turn in count((position or {"turn": 0})["turn"]):
                yield packed[(turn * self.lanes + lane) % len(packed)], {"turn": turn + 1}

        return self.make_lane_loader(open_lane)

    def code_features(self):
        return {}

    def check_feature_projector(self, *, has_projector):
        pass


class Watched(L.Callback):
    """Losses of each micro-batch, and the gradients of the first step."""

    def __init__(self):
        self.losses, self.gradients = [], None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.gradients is None:
            self.gradients = {
                name: whole(p.grad)
                for name, p in pl_module.named_parameters()
                if p.grad is not None
            }


def whole(value):
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def fit(rank, *, processes, strategy, accumulate, steps, resume=None, save=None, **changes):
    """Train and return what happened: losses by micro-batch, gradients, weights, states."""
    torch.manual_seed(rank)
    warnings.simplefilter("ignore", PossibleUserWarning)  # no loaders of validation, no workers
    if strategy == "fsdp2":
        strategy = ShardedStrategy(**changes.pop("saving", {}))
    watched = Watched()
    trainer = L.Trainer(
        **QUIET,
        devices=processes,
        strategy=strategy,
        accumulate_grad_batches=accumulate,
        max_steps=steps,
        callbacks=[watched],
        gradient_clip_val=changes.pop("clip", None),
    )
    model = module(total_steps=40, **changes)
    trainer.fit(model, datamodule=Dealt(), ckpt_path=resume)
    for path in save or ():
        trainer.save_checkpoint(path)
    trainer.strategy.teardown()
    states = [
        {key: whole(v) for key, v in state.items()}
        for state in trainer.optimizers[0].state.values()
    ]
    weights = gather_weights(model) if is_sharded(model) else model.state_dict()
    return {
        "losses": watched.losses,
        "gradients": watched.gradients,
        "weights": {k: v.clone() for k, v in weights.items()},
        "states": states,
    }


def trained(folder, processes, strategy, **settings):
    """What happened in each process."""
    work = partial(fit, processes=processes, strategy=strategy, **settings)
    return run_processes(work, processes, folder)


def step_losses(found, accumulate):
    """The mean loss of every step over its micro-batches and processes."""
    losses = torch.tensor([each["losses"] for each in found])
    return losses.view(len(found), -1, accumulate).mean((0, 2))


LAYOUTS = [(2, 2, "ddp"), (2, 2, "fsdp2"), (4, 1, "ddp"), (4, 1, "fsdp2")]


def check_layout(folder, alone, layout, steps):
    processes, accumulate, strategy = layout
    found = trained(folder, processes, strategy, accumulate=accumulate, steps=steps)
    ours, theirs = step_losses(found, accumulate), step_losses(alone, 4)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
    for name, gradient in alone[0]["gradients"].items():
        difference = (found[0]["gradients"][name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm(), name


def test_two_processes_train_as_one_that_accumulates(tmp_path):
    alone = trained(tmp_path, 1, "auto", accumulate=4, steps=3)
    for layout in LAYOUTS[:2]:
        check_layout(tmp_path, alone, layout, 3)


@pytest.mark.slow
def test_all_layouts_train_alike(tmp_path):
    alone = trained(tmp_path, 1, "auto", accumulate=4, steps=20)
    for layout in LAYOUTS:
        check_layout(tmp_path, alone, layout, 20)


def assert_same_run(one, other):
    torch.testing.assert_close(one["weights"], other["weights"], rtol=0, atol=0)
    torch.testing.assert_close(one["states"], other["states"], rtol=0, atol=0)


OPTIMIZERS = {"adamw": partial(torch.optim.AdamW, lr=1e-3), "muon": partial(MuonAdamW, lr=1e-3)}


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("adamw", (1,)), pytest.param("muon", (1, 4), marks=pytest.mark.slow)],
)
def test_a_folder_of_two_processes_is_resumed_by_any_number(tmp_path, optimizer, numbers):
    settings = {"accumulate": 1, "optimizer": OPTIMIZERS[optimizer], "weight_decay": 0.1}
    folder, file = tmp_path / "step2.ckpt", tmp_path / "whole.ckpt"
    two = trained(tmp_path, 2, "fsdp2", steps=2, save=[folder], **settings)
    assert is_checkpoint_folder(folder)
    for processes in (2, *numbers):
        again = trained(tmp_path, processes, "fsdp2", steps=2, resume=str(folder), **settings)
        assert_same_run(two[0], again[0])
    again = trained(
        tmp_path,
        2,
        "fsdp2",
        steps=2,
        resume=str(folder),
        save=[file],
        saving={"save_distributed_checkpoint": False},
        **settings,
    )
    alone = trained(tmp_path, 1, "auto", steps=2, resume=str(file), **settings)
    assert_same_run(two[0], alone[0])
    alone = trained(tmp_path, 2, "fsdp2", steps=2, resume=str(file), **settings)
    assert_same_run(two[0], alone[0])
    read = read_checkpoint_folder(folder, has_processes=False)
    torch.testing.assert_close(read["state_dict"], two[0]["weights"], rtol=0, atol=0)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    folder = tmp_path / "last.ckpt"
    saving = {"save_asynchronously": True}
    settings = {"accumulate": 1, "saving": saving, "clip": 0.1}
    straight = trained(tmp_path, 2, "fsdp2", steps=4, **settings)
    trained(tmp_path, 2, "fsdp2", steps=2, save=[folder, folder], **settings)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt*")) == ["last.ckpt"]
    assert not list(tmp_path.glob(".last*"))
    again = trained(tmp_path, 2, "fsdp2", steps=4, resume=str(folder), **settings)
    assert straight[0]["losses"][2:] == again[0]["losses"]
    assert_same_run(straight[0], again[0])
