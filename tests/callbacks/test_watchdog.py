"""A run whose step does not end leaves with a code and the stacks of its threads."""

import ctypes
import os
import signal
import time

import lightning as L
import pytest
import torch

from lightning_omni.callbacks.watchdog import Watchdog
from lightning_omni.stop_signals import HUNG


class Hangs(L.LightningModule):
    """Trains two steps, each in a third of the time, and hangs in the third."""

    def __init__(self, hang, timeout_s):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.hang, self.timeout_s = hang, timeout_s

    def training_step(self, x, index):
        time.sleep(self.timeout_s / 3)
        if self.global_step == 2 and self.hang is not None:
            self.hang()
        return self.layer(x).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, hang, timeout_s):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=6,
        callbacks=[Watchdog(timeout_s)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Hangs(hang, timeout_s), torch.utils.data.DataLoader(torch.randn(9, 3)))


def sleep_for_ever():
    time.sleep(1000)


def keep_the_interpreter():
    """Hang in C, where no other thread of Python can run."""
    ctypes.PyDLL(None).sleep(1000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("hang", "code"), [(sleep_for_ever, HUNG), (keep_the_interpreter, 1)])
def test_a_hung_step_ends_the_process(tmp_path, hang, code):
    child = os.fork()
    if child == 0:
        with (tmp_path / "stderr").open("w") as file:
            os.dup2(file.fileno(), 2)
        fit(tmp_path, hang, 1.0)
        os._exit(0)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert time.monotonic() - begun < 60
    assert hang.__name__ in (tmp_path / "stderr").read_text()
    if code == HUNG:
        assert "no step has ended for 1 s" in (tmp_path / "stderr").read_text()
        assert "sleep_for_ever" in (tmp_path / "hung-rank0.txt").read_text()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stopped_s", [0, 8])
def test_a_run_that_goes_on_is_left_alone(tmp_path, stopped_s):
    """In a child, which a stall of the machine may end."""
    child = os.fork()
    if child == 0:
        fit(tmp_path, None, 5.0)
        time.sleep(1.0)  # the timer is off
        os._exit(0)
    time.sleep(1.0)
    if stopped_s:
        os.kill(child, signal.SIGSTOP)
        time.sleep(stopped_s)
        os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(tmp_path.iterdir())
