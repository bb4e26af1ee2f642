"""The record of a run on several processes names what computed on all of them."""

import warnings
from functools import partial
from itertools import count

import lightning as L
import pytest
from lightning.fabric.utilities.warnings import PossibleUserWarning
from several_processes import run_processes
from test_layouts import QUIET, Dealt
from test_training_on_features import batches, module

from lightning_omni.callbacks.hyper_parameters import computation_of_run
from lightning_omni.callbacks.precision_plugin import BFloat16WhereFaster
from lightning_omni.callbacks.run_record import RunRecord, read_run_record
from lightning_omni.modules.sharding import ShardedStrategy
from lightning_omni.nn import segments


def longest(batch):
    return max(batch.lengths)


class Unequal(Dealt):
    """Short segments for the first process, and a long one for the second."""

    def train_dataloader(self):
        short, *_, long = sorted(batches(count=80, rows=1), key=longest)
        segments.MAX_BF16_LENGTH = longest(short)
        assert longest(short) < longest(long)

        def open_lane(lane, position):
            for turn in count((position or {"turn": 0})["turn"]):
                yield (short, long)[lane % 2], {"turn": turn + 1}

        return self.make_lane_loader(open_lane)


def noting(found, name, kernel):
    def note(query, *others):
        found.add((str(query.dtype).removeprefix("torch."), name))
        return kernel(query, *others)

    return note


def train(rank, *, strategy, folder, **precision):
    """What ran in this process, what its callback tells and what TensorBoard would show."""
    warnings.simplefilter("ignore", PossibleUserWarning)  # no loaders of validation, no workers
    warnings.filterwarnings("ignore", message="Mismatch dtype")  # torch: a norm is not fused
    found = set()
    segments._KERNELS = {n: noting(found, n, kernel) for n, kernel in segments._KERNELS.items()}
    record = RunRecord()
    trainer = L.Trainer(
        **QUIET,
        devices=2,
        strategy=ShardedStrategy() if strategy == "fsdp2" else "ddp",
        default_root_dir=folder,
        max_steps=2,
        callbacks=[record],
        **precision,
    )
    trainer.fit(module(total_steps=40), datamodule=Unequal())
    return found, record.entry, computation_of_run(trainer)


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        ({"precision": "32-true"}, ("float32", "sdpa")),
        ({"precision": "bf16-mixed"}, ("bfloat16", "bf16_attention, sdpa")),
        ({"plugins": [BFloat16WhereFaster(always=True)]}, ("bfloat16", "bf16_attention, sdpa")),
    ],
)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_what_both_processes_computed_with_is_recorded(tmp_path, strategy, precision, wanted):
    work = partial(train, strategy=strategy, folder=tmp_path / "run", **precision)
    (first, entry, shown), (second, none, _) = run_processes(work, 2, tmp_path)
    assert not none
    assert read_run_record(tmp_path / "run/provenance.json") == [entry]
    ran = first | second
    assert {dtype for dtype, _ in ran} == {entry["precision"]}
    assert sorted({name for _, name in ran}) == entry["attention"].split(", ")
    assert (entry["precision"], entry["attention"]) == wanted
    assert "sdpa" in {name for _, name in second}
    assert len(first) == 1  # the long segments were on the second process only
    facts = entry["device"], entry["processes"], entry["nodes"], entry["strategy"]
    name = "ShardedStrategy" if strategy == "fsdp2" else "DDPStrategy"
    assert facts == ("cpu", 2, 1, name)
    assert (entry["first_step"], entry["last_step"]) == (0, 2)
    assert (shown["used.precision"], shown["used.attention"]) == wanted
