"""Processes agree on a signal a step late; Lightning's own handling of signals is off."""

import os
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from several_processes import run_processes

from lightning_omni.callbacks import preemption
from lightning_omni.callbacks.preemption import Preemption
from lightning_omni.callbacks.signal_agreement import SignalAgreement
from lightning_omni.stop_signals import Stopped


def agree(rank):
    """What one process reads in three steps, and at once; the second one has a signal in step 1."""
    agreement = SignalAgreement()
    agreement.make_process_group()
    codes = [(0, 143)[rank == 1 and step == 1] for step in range(3)]
    found = [agreement.exchange(code) for code in codes]
    return [*found, agreement.finish_exchange(), agreement.exchange_now(75 * rank)]


@pytest.mark.filterwarnings("ignore:.*fork.*", "ignore:.*gloo.*")
def test_processes_read_what_was_sent_in_the_step_before(tmp_path):
    assert run_processes(agree, 2, tmp_path, joins=True) == [[0, 0, 143, 0, 75]] * 2


def test_one_process_agrees_at_once():
    agreement = SignalAgreement()
    agreement.make_process_group()
    assert [agreement.exchange(143), agreement.exchange_now(75)] == [143, 75]


def test_lightning_neither_handles_signals_nor_asks_the_device_for_them():
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    loop = trainer.fit_loop.epoch_loop
    assert callable(type(loop)._broadcast_sigterm_tensor)  # else it has another name
    Preemption().setup(trainer, None, "validate")
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) == before
    loop._broadcast_sigterm_tensor()  # needs no process group


def test_a_second_ctrl_c_stops_at_once_and_a_repeated_one_does_not(monkeypatch, capfd):
    now = [10.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    callback = Preemption()
    for _ in range(2):  # a terminal and a launcher pass on the same one
        callback._note_signal(signal.SIGINT, None)
    assert callback.received == 130
    assert capfd.readouterr().err.count("press Ctrl-C again") == 1
    callback._note_signal(signal.SIGTERM, None)
    assert callback.received == 143
    now[0] += 5
    with pytest.raises(KeyboardInterrupt):
        callback._note_signal(signal.SIGINT, None)


class Line(L.LightningModule):
    """A module that sends its process SIGTERM once, in a step of training or of validation."""

    def __init__(self, sends_in, at):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.sends_in, self.at, self.has_sent = sends_in, at, False

    def training_step(self, x, index):
        self.send_signal("training")
        return self.layer(x).square().mean()

    def validation_step(self, x, index):
        self.send_signal("validation")

    def send_signal(self, phase):
        if phase == self.sends_in and self.global_step == self.at and not self.has_sent:
            self.has_sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def stopped(module, folder, *callbacks, **options):
    """The trainer of a run that a signal stops."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=6,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.callbacks.append(Preemption())
    loaders = [torch.utils.data.DataLoader(torch.randn(24, 3), batch_size=2) for _ in range(2)]
    with pytest.raises(Stopped) as found:
        trainer.fit(module, *loaders)
    assert found.value.exit_code == 143
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"save_last": True},
        {"save_last": False},
        {"save_last": "link"},
        {"save_last": True, "save_weights_only": True},
    ],
    ids=["last", "no last", "a link", "weights only"],
)
def test_a_stop_saves_its_step_whole_whatever_the_run_keeps(tmp_path, options):
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, **options)
    module = Line("training", at=2)
    trainer = stopped(module, tmp_path, keeper, limit_val_batches=0)
    assert trainer.checkpoint_callbacks == [keeper]  # as `--ckpt_path best` asks for it
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert saved["global_step"] == 3
    assert len(saved["optimizer_states"]) == 1
    (before,) = tmp_path.glob("*step=2.ckpt")
    assert torch.load(before, weights_only=False)["global_step"] == 2


def test_a_run_that_keeps_nothing_says_so(tmp_path):
    module = Line("training", at=2)
    trainer = stopped(module, tmp_path, limit_val_batches=0, enable_checkpointing=False)
    assert trainer.global_step == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 3), (2, 2)])
def test_a_stop_in_validation_waits_for_gradients_that_are_accumulated(
    tmp_path, accumulated, steps
):
    """Validation comes behind three batches: three steps, or a step and a half."""
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=100, save_last=True)
    module = Line("validation", at=3 // accumulated)
    every = {"val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    trainer = stopped(module, tmp_path, keeper, accumulate_grad_batches=accumulated, **every)
    assert trainer.global_step == steps
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["global_step"] == steps
