"""Steps that are not finite change nothing, on any process; too many in a row end a run."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from several_processes import run_processes

from lightning_omni.callbacks.ema import EMA
from lightning_omni.callbacks.export import AveragesWhenSkipped
from lightning_omni.callbacks.export_checkpoint import export_checkpoint
from lightning_omni.callbacks.skip_non_finite import SkipNonFinite
from lightning_omni.cli import build_cli
from lightning_omni.errors import OmniError
from lightning_omni.modules.tokenizer_training import TokenizerTraining
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.optim.optimizer import decay_groups

BATCHES = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(1))
NAN, INF = float("nan"), float("inf")
ADAMW, MUON = (lambda groups: torch.optim.AdamW(groups, lr=0.05)), (lambda g: MuonAdamW(g, lr=0.05))


class Line(L.LightningModule):
    """A small network whose loss is multiplied by a factor in some batches."""

    def __init__(self, factors=None, optimizer=ADAMW, process=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
        )
        self.factors, self.optimizer, self.process = factors or {}, optimizer, process

    def training_step(self, x, index):
        loss = self.net(x).square().mean()
        is_here = self.process in (None, self.global_rank)
        return loss * self.factors.get(index, 1.0) if is_here else loss

    def configure_optimizers(self):
        return self.optimizer(decay_groups(self.net, 0.1))


def fit(module, folder, *callbacks, batches=BATCHES, steps=6, **options):
    """The trainer of a run; what is in `kept` is saved in every step."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[*callbacks, ModelCheckpoint(folder / "kept", every_n_train_steps=1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"devices": 1, **options},
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    return trainer


def without_batches(batches, left_out):
    return batches[[i for i in range(len(batches)) if i not in left_out]]


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["AdamW", "Muon"])
@pytest.mark.parametrize("factor", [NAN, INF])
def test_a_run_is_what_it_would_be_without_the_batches(tmp_path, optimizer, factor):
    module, whole = Line({1: factor, 3: factor}, optimizer), Line(optimizer=optimizer)
    guard = SkipNonFinite()
    fit(module, tmp_path, guard)
    fit(whole, tmp_path, batches=without_batches(BATCHES, [1, 3]), steps=4)
    assert (guard.skipped, guard.in_a_row) == (2, 0)
    for name, p in whole.named_parameters():
        assert torch.equal(p, dict(module.named_parameters())[name]), name


def test_a_step_of_several_batches_is_skipped_whole(tmp_path):
    module, whole, guard = Line({2: NAN}), Line(), SkipNonFinite()
    fit(module, tmp_path, guard, steps=3, accumulate_grad_batches=2)
    left = without_batches(BATCHES, [2, 3])
    fit(whole, tmp_path, batches=left, steps=2, accumulate_grad_batches=2)
    assert guard.skipped == 1
    for one, other in zip(module.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_steps_in_a_row_end_a_run_and_the_count_goes_on(tmp_path, caplog):
    module = Line(dict.fromkeys(range(2, 9), NAN))
    with pytest.raises(OmniError, match=r"3 steps in a row were skipped.*go on with .*kept/last"):
        fit(module, tmp_path, SkipNonFinite(3))
    saved = tmp_path / "kept" / "last.ckpt"
    assert torch.load(saved)["global_step"] == 5
    assert all(p.isfinite().all() for p in torch.load(saved)["state_dict"].values())
    state = torch.load(saved)["callbacks"]["SkipNonFinite"]
    assert state == {"skipped": 3, "in_a_row": 0}  # a resumed run has as many attempts
    resumed = SkipNonFinite()
    resumed.load_state_dict(state)
    assert (resumed.skipped, resumed.in_a_row) == (3, 0)


def test_a_spike_is_logged_and_trained_on(tmp_path, caplog):
    guard = SkipNonFinite()
    with caplog.at_level(logging.WARNING):
        fit(Line({30: 1e4}), tmp_path, guard, steps=33)
    assert guard.skipped == 0
    (line,) = [one for one in caplog.messages if "usually" in one]
    assert line.startswith("step 31: loss ")


CRITICS = {  # recipe, one batch, losses
    "image": ("image_tokenizer", (2, 3, 32, 32), ("l1", "adversarial", "critic")),
    "speech": ("speech_tokenizer_seanet", (2, 9600), ("spectral", "features", "critic")),
}


@pytest.mark.parametrize("kind", CRITICS)
def test_a_spike_of_each_loss_of_a_tokenizer_with_a_critic_is_logged(
    kind, tmp_path, monkeypatch, caplog
):
    recipe, shape, names = CRITICS[kind]
    path = Path(__file__).parents[2] / f"recipes/debug/{recipe}.yaml"
    module = build_cli(["--config", str(path)], run=False, with_trainer=False).model
    monkeypatch.setattr("lightning_omni.callbacks.skip_non_finite._ENOUGH", 3)
    module.adversarial_start, note = 0, module.note_losses

    def note_spikes(losses, size):
        step = len(guard._usual["critic"]) + 1
        spikes = {name: 100 * (1 + at) for at, name in enumerate(names) if step == 6 + at}
        note({name: spikes.get(name, value) + 0 * value for name, value in losses.items()}, size)

    guard = SkipNonFinite()
    monkeypatch.setattr(module, "note_losses", note_spikes)
    batches = 0.1 * torch.randn(10, *shape, generator=torch.Generator().manual_seed(0))
    trainer = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    trainer |= {"limit_val_batches": 0, "default_root_dir": tmp_path}
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    L.Trainer(callbacks=[guard], **trainer).fit(module, loader, loader)
    said = [line.partition(", usually")[0] for line in caplog.messages if "usually" in line]
    wanted = [f"step {6 + at}: {name} loss {100 * (1 + at)}" for at, name in enumerate(names)]
    assert said == wanted
    assert set(names) < set(guard._usual)


@pytest.mark.parametrize("spoilt", ["weight", "average"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, spoilt):
    average = EMA(0.5)

    class Spoils(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 3:
                of = average.averaged if spoilt == "average" else dict(module.named_parameters())
                of["net.0.bias"].data[0] = NAN

    with pytest.raises(OmniError, match=r"net.0.bias.*no checkpoint"):
        fit(Line(), tmp_path, average, Spoils(), SkipNonFinite())
    (saved,) = (tmp_path / "kept").iterdir()
    assert torch.load(saved)["global_step"] == 2


def in_processes(rank, *, folder, strategy, spoils):
    """What a process of a run is left with, one of which spoils a loss or a gradient."""
    guard, average = SkipNonFinite(), EMA(0.5)
    module = Line({1: NAN} if spoils == "loss" else {}, process=1)
    if spoils == "gradient":

        class Spoils(L.Callback):
            def on_after_backward(self, trainer, module):
                if trainer.global_step == 1 and rank == 1:
                    module.net[0].bias.grad[0] = INF

        fit(module, folder, guard, average, Spoils(), devices=2, strategy=strategy)
    else:
        fit(module, folder, guard, average, devices=2, strategy=strategy)
    return guard.skipped, average.updates, dict(module.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spoils", ["loss", "gradient"])
def test_all_processes_skip_what_one_of_them_spoils(tmp_path, spoils):
    def work(rank):
        return in_processes(rank, folder=tmp_path, strategy="ddp", spoils=spoils)

    one, other = run_processes(work, 2, tmp_path)
    assert one[:2] == other[:2] == (1, 6)
    for name, value in one[2].items():
        assert value.isfinite().all()
        assert torch.equal(value, other[2][name])


PROGRAM = """
import json, sys, torch
from types import SimpleNamespace
sys.path.insert(0, {folder!r})
from pretended_gpu import pretend
from lightning_omni.callbacks.ema import EMA
from lightning_omni.callbacks.export import AveragesWhenSkipped
from lightning_omni.callbacks.export_checkpoint import export_checkpoint
from lightning_omni.callbacks.skip_non_finite import SkipNonFinite
from lightning_omni.errors import OmniError
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.optim.optimizer import decay_groups
gpu = pretend()
mode = gpu.Mode()
with mode:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4))
    gpu.move(net)
    guard, average = SkipNonFinite(), EMA(0.5)
    plugin = SimpleNamespace(scaler=None)
    trainer = SimpleNamespace(
        callbacks=[guard, average], precision_plugin=plugin, log_every_n_steps=10, loggers=[],
        lightning_module=net, global_step=0, save_checkpoint=None, checkpoint_callbacks=[])
    optimizer = MuonAdamW(decay_groups(net, 0.1), lr=0.1)
    average._distribute_average(net)
    found = []
    for step in range(10):
        before = [p.values_.clone() for p in net.parameters()]
        x = gpu.Tensor(torch.full((2, 3), float("nan") if step in (3, 4) else 1.0 + step))
        mode.syncs.clear()
        guard.on_train_batch_start(trainer, net, x, step)
        loss = net(x).square().mean()
        guard.on_before_backward(trainer, net, loss)
        optimizer.zero_grad()
        loss.backward()
        guard.on_before_optimizer_step(trainer, net, optimizer)
        optimizer.step()
        trainer.global_step += 1
        guard.on_train_batch_end(trainer, net, None, x, step)
        average.on_train_batch_end(trainer, net)
        waits = sum(mode.syncs.values())
        same = all(torch.equal(a, p.values_) for a, p in zip(before, net.parameters()))
        found.append((waits > 0, same, guard.skipped))
    assert all(a.values_.isfinite().all() for a in average.averaged.values())
    assert average.averaged["0.weight"].device.type == "cuda"
    export, ended = AveragesWhenSkipped(), torch.nn.Linear(3, 4)  # Lightning moves it to the CPU
    export.has_trained = True
    export.on_fit_end(trainer, ended)
    average.averaged["0.weight"].values_[0, 0] = float("inf")
    try:
        export.on_fit_end(trainer, ended)
    except OmniError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_a_gpu_is_not_waited_for_but_at_logged_steps():
    """On a pretended one: steps 3 and 4 are skipped there, and counted when step 10 is logged."""
    root = Path(__file__).parents[2]
    program = PROGRAM.format(folder=str(root / "tests/gpu_check"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert [one[0] for one in found[:10]] == [False] * 9 + [True], done.stdout
    assert [step for step in range(10) if found[step][1]] == [3, 4]
    assert found[9][2] == 2
    assert "'averaged.0.weight' first" in found[10]


def test_fused_adamw_does_nothing_where_the_device_says_so():
    """What most recipes use on GPUs, where nobody waits for the number."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4))
    made = torch.optim.AdamW(decay_groups(net, 0.1), lr=0.1, fused=True)
    for skip, value in ((0.0, 1.0), (1.0, NAN), (0.0, 1.0)):
        before = [p.detach().clone() for p in net.parameters()]
        states = [v.clone() for s in made.state.values() for v in s.values()]
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        made.found_inf = torch.tensor(skip)
        made.step()
        now = [v for s in made.state.values() for v in s.values()]
        pairs = zip([*before, *states], [*net.parameters(), *now], strict=False)
        assert all(torch.equal(*pair) for pair in pairs) == bool(skip)


def test_the_losses_of_a_scaler_are_looked_at_and_its_gradients_are_not(caplog):
    """A scaler finds its scale by gradients that are not finite, which it skips itself."""
    net, guard = torch.nn.Linear(3, 1), SkipNonFinite()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=object()), callbacks=[guard], global_step=0,
        log_every_n_steps=1, loggers=[], lightning_module=net, checkpoint_callbacks=[],
    )  # fmt: skip
    for loss, gradient, skipped in ((1.0, INF, 0), (1e6, 1.0, 0), (NAN, 1.0, 1)):
        guard.on_train_batch_start(trainer, SimpleNamespace(device="cpu"), None, 0)
        guard.on_before_backward(trainer, net, torch.tensor(loss))
        for p in net.parameters():
            p.grad = torch.full_like(p, gradient)
        guard.on_before_optimizer_step(trainer, SimpleNamespace(device="cpu"), optimizer)
        guard.on_train_batch_end(trainer, net, None, None, 0)
        assert guard.skipped == skipped
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("backpropagated", "noted", "wanted"),
    [
        ([1.0, 2.0], [0.25, 0.75], 3.0),  # noted losses are parts of these
        ([3e38, 3e38], [3e38], torch.finfo(torch.float32).max),
        ([3e38, -3e38], [], 0.0),
        ([1.0], [2.0, NAN], NAN),
        ([1.0, -INF], [2.0], -INF),
        ([INF, -INF], [], NAN),
        ([], [], 0.0),
    ],
)
def test_a_step_is_judged_by_each_loss_and_not_by_a_sum(backpropagated, noted, wanted):
    guard, module = SkipNonFinite(), TokenizerTraining.__new__(TokenizerTraining)
    L.LightningModule.__init__(module)
    module.step_losses = {str(n): torch.tensor(value) for n, value in enumerate(noted)}
    for value in backpropagated:
        guard.on_before_backward(None, module, torch.tensor(value))
    found = guard._step_loss(module, torch.zeros(()))
    assert found.equal(torch.tensor(wanted)) or (found.isnan() and wanted != wanted)


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    module = Line()
    trainer = fit(module, tmp_path, steps=1)
    AveragesWhenSkipped().on_fit_end(trainer, module)
    module.net[0].weight.data[0, 0] = INF
    with pytest.raises(OmniError, match=r"'net.0.weight' first.*no export"):
        AveragesWhenSkipped().on_fit_end(trainer, module)
    trainer.save_checkpoint(tmp_path / "bad.ckpt")
    with pytest.raises(OmniError, match="no export"):
        export_checkpoint(tmp_path / "bad.ckpt", module, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
