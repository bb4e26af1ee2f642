"""What `Throughput` counts and measures, and that it asks no device for it."""

import csv
import importlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_omni import devices
from lightning_omni.callbacks.health import HealthMonitor
from lightning_omni.callbacks.step_times import StepTimer
from lightning_omni.callbacks.throughput import Throughput
from lightning_omni.data.packing import collate
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.flops import training_flops
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import NoisyBatch, TokenSequence
from tests.small_models import SMALL


class _Event:
    """An event in the stream of a pretended GPU, which has come as far as `reached`."""

    made, reached = 0, 0

    def __init__(self, enable_timing):
        assert enable_timing
        self.number = _Event.made = _Event.made + 1

    def record(self):
        pass

    def query(self):
        return self.number <= _Event.reached

    def elapsed_time(self, other):
        assert other.query(), "read before the GPU has passed it"
        return 1000.0 * (other.number - self.number)


def _sequence(length, answer, task):
    maskable = np.arange(length) >= length - answer
    positions = np.array([(i, 0, 0) for i in range(length)])
    modality = np.where(maskable, 0, -1)
    ids, no = np.ones(length, dtype=np.int64), np.zeros(length, dtype=bool)
    return TokenSequence(ids, positions, maskable, no, modality, task, "key")


def _batch(num_losses=None):
    rows = [[(0, _sequence(20, 5, 0)), (1, _sequence(10, 4, 2))], [(2, _sequence(32, 7, 2))]]
    batch = collate(rows, row_length=32, pad_token_id=0)
    if num_losses is None:
        return batch
    one = torch.zeros(num_losses)
    noisy = NoisyBatch(batch.ids, one.long(), one.bool(), one, one, num_losses=num_losses)
    return replace(batch, noisy=noisy)


def _module(network):
    module = MaskedDiffusionModule.__new__(MaskedDiffusionModule)
    L.LightningModule.__init__(module)
    module.backbone = network
    return module


def test_tokens_tasks_and_operations_are_counted_without_the_device():
    network = Transformer(50, [], **SMALL)
    callback = Throughput()
    batch = _batch(num_losses=9).to("meta")  # a value of a meta tensor cannot be read
    callback._count_tokens(batch, _module(network))
    assert (callback.tokens, callback.useful, callback.answer) == (64, 62, 16)
    assert callback.tasks == {0: 1, 2: 2}
    assert callback.flops == training_flops(network, [20, 10, 32], 9)
    callback.steps, callback.peak_flops = 1, 1e9
    values = callback._token_metrics(2.0)
    assert values["perf/mfu"] == pytest.approx(callback.flops / 2e9)
    assert values[f"data_task/{TASK_NAMES[2]}"] == pytest.approx(2 / 3)
    callback.peak_flops = None
    assert "perf/mfu" not in callback._token_metrics(2.0)


@pytest.mark.parametrize(
    ("name", "frozen", "has_mfu"),
    [
        ("NVIDIA H200", False, True),
        ("NVIDIA H200", True, False),
        ("NVIDIA RTX 9", False, False),
    ],
)
def test_mfu_needs_a_known_gpu_and_gradients_of_all_weights(monkeypatch, name, frozen, has_mfu):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    network = Transformer(50, [], **SMALL)
    network.blocks.requires_grad_(not frozen)
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    callback = Throughput()
    callback.on_fit_start(SimpleNamespace(strategy=strategy, loggers=[]), _module(network))
    assert (callback.peak_flops is not None) == has_mfu
    assert callback.times.is_cuda


def test_times_of_a_gpu_are_read_when_it_has_passed_their_events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    times = StepTimer(torch.device("cuda", 0))

    def step(reached):
        times.start_step(0.0)
        times.mark_end_of_part(0.0)
        times.mark_end_of_part(0.0)
        _Event.reached = reached
        times.end_step(0.0)

    step(reached=0)
    assert times.mean_times() == {}
    step(reached=5)
    assert times.steps == 1
    assert times.mean_times() == {"perf/forward_s": 1, "perf/backward_s": 1, "perf/update_s": 1}
    times.reset_sums()
    step(reached=12)
    assert times.steps == 2


def test_times_of_a_cpu_are_those_of_the_host():
    times = StepTimer(torch.device("cpu"))
    times.start_step(1.0)
    times.mark_end_of_part(3.0)
    times.mark_end_of_part(6.0)
    times.end_step(7.0)
    assert times.mean_times() == {"perf/forward_s": 2, "perf/backward_s": 3, "perf/update_s": 1}


def test_windows_has_no_peak_of_memory(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    again = importlib.util.module_from_spec(devices.__spec__)
    devices.__spec__.loader.exec_module(again)
    assert again.peak_memory_gb(torch.device("cpu")) is None
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=strategy, loggers=[], global_step=1)
    callback = Throughput()
    callback.steps = callback.samples = callback.compute_s = 1
    callback._log_throughput(trainer)

    assert callback.latest["perf/samples_per_s"] == 1
    assert "perf/peak_gb" not in callback.latest


class _Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.norms = torch.nn.Linear(2, 1), []

    def on_before_optimizer_step(self, optimizer):
        grads = [p.grad for p in self.parameters()]
        self.norms.append(float(torch.nn.utils.get_total_norm(grads)))

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("has_csv", [True, False])
def test_a_fit_without_tensorboard_goes_on_and_writes_no_events(tmp_path, has_csv):
    callback = Throughput()
    trainer = L.Trainer(
        logger=CSVLogger(str(tmp_path)) if has_csv else False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[callback, HealthMonitor()],
        max_steps=4,
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = _Line()
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2))
    assert trainer.global_step == 4
    assert callback.latest["perf/samples_per_s"] > 0
    assert not list(tmp_path.rglob("events.out*"))
    found = list(tmp_path.rglob("metrics.csv"))
    assert len(found) == has_csv
    if has_csv:
        with found[0].open() as file:
            rows = list(csv.DictReader(file))
        assert [float(r["perf/samples_per_s"]) > 0 for r in rows if r["perf/samples_per_s"]]
        norms = {int(r["step"]): r["optim/grad_norm"] for r in rows if r["optim/grad_norm"]}
        assert list(norms) == [1, 3]
        for step, norm in norms.items():  # of that step, not of an earlier one
            assert float(norm) == pytest.approx(module.norms[step], rel=1e-4)
