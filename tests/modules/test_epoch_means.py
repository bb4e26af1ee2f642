"""Means of an evaluation are those of all batches, however many processes share them."""

import warnings
from functools import partial

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from several_processes import run_processes
from test_layouts import QUIET
from test_training_on_features import batches, module

from lightning_omni.data.fixed_batches import FixedBatches, make_fixed_loader
from lightning_omni.modules.epoch_means import EpochMeans
from lightning_omni.modules.sharding import ShardedStrategy


def test_the_mean_is_weighted_and_taken_once():
    means = EpochMeans()
    means.add("a", torch.tensor(1.0), 3)
    means.add("a", torch.tensor(5.0), 1)
    means.add("b", torch.tensor(7.0), 2)
    means.add("c", torch.tensor(float("nan")), 0)
    assert means.take_means() == {"a": 2.0, "b": 7.0}
    assert means.take_means() == {}


def means_of(rank):
    means = EpochMeans()
    means.add("both", torch.tensor(float(rank)), 1 + 2 * rank)
    if rank:
        means.add("one", torch.tensor(4.0), 1)
    return means.take_means()


def test_processes_without_a_value_do_not_count(tmp_path):
    found = run_processes(means_of, 2, tmp_path, joins=True)
    assert found == [{"both": 0.75, "one": 4.0}] * 2


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_are_dealt_once_and_all_processes_have_as_many(world_size):
    packed = batches(60, rows=1)[:4]
    own = [list(FixedBatches(packed, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(each) for each in own}) == 1
    real = [batch for each in own for batch in each if batch.num_maskable]
    assert sorted(map(id, real)) == sorted(map(id, packed))


def validate(rank, *, processes, strategy):
    warnings.simplefilter("ignore", PossibleUserWarning)
    packed = batches(60, rows=1)[:5]
    strategy = ShardedStrategy() if strategy == "fsdp2" else strategy
    trainer = L.Trainer(**QUIET, devices=processes, strategy=strategy)
    loader = make_fixed_loader(packed, rank=rank, world_size=processes)
    trainer.validate(module(), loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_losses_of_a_split_do_not_depend_on_the_number_of_processes(tmp_path):
    work = partial(validate, processes=1, strategy="auto")
    (alone,) = run_processes(work, 1, tmp_path)
    assert alone["val/loss"] > 0
    assert len(alone) > 5
    for strategy in ("ddp", "fsdp2"):
        work = partial(validate, processes=2, strategy=strategy)
        for found in run_processes(work, 2, tmp_path):
            assert found == pytest.approx(alone, rel=1e-5)
