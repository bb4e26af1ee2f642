"""Processes agree on a signal a step late; Lightning's own handling of signals is off."""

import signal

import lightning as L
import pytest
from several_processes import run_processes

from lightning_omni.callbacks import preemption
from lightning_omni.callbacks.preemption import Preemption
from lightning_omni.callbacks.signal_agreement import SignalAgreement


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
