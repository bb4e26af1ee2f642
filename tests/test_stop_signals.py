"""A signal ends a command with a sentence and its code; helpers of a command outlive it."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_omni.cli import main
from lightning_omni.data.lanes import LaneLoader, LaneStream
from lightning_omni.stop_signals import (
    children_ignore_interrupts,
    handle_stop_signals,
    raise_stopped,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def heeded_interrupts():
    """SIGINT as in a terminal; a shell's background jobs ignore it, and so would the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "stopped by SIGTERM\n"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1\n"),
    ],
)
def test_a_signal_ends_every_verb_with_a_sentence(number, code, said, monkeypatch, capsys):
    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr(
        "lightning_omni.cli._run_verb", lambda *_: os.kill(os.getpid(), number) or time.sleep(5)
    )
    for verb in ("evaluate", "encode", "fit", "prep-data"):
        assert main([verb]) == code
        assert capsys.readouterr().err == said
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_lightning_s_exit_after_ctrl_c_is_an_interrupt(monkeypatch, capsys):
    def run(*_):
        try:
            signal.default_int_handler(signal.SIGINT, None)
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr("lightning_omni.cli._run_verb", run)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def open_lane(lane, start):
    return ((10 * lane + n, {}) for n in range(1000))


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_workers_of_a_loader_serve_on_after_a_signal_to_all_processes():
    batches = iter(LaneLoader(LaneStream(open_lane, lanes=2), num_workers=2, prefetch=1))
    found = [next(batches).batch for _ in range(4)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in SIGNALS:
            os.kill(worker.pid, number)
    found += [next(batches).batch for _ in range(8)]
    assert found == [0, 10, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15]


WORKER = """
import multiprocessing, os, signal, sys, time
from lightning_omni import stop_signals
from lightning_omni.data.lanes import LaneLoader, LaneStream
is_repeated = sys.argv[1] == "True"
stop_signals._WORKER_S = 100 if is_repeated else 1
stream = LaneStream(lambda lane, start: ((n, {}) for n in range(99)), lanes=2)
batches = iter(LaneLoader(stream, num_workers=1))
next(batches)
(worker,) = multiprocessing.active_children()
os.kill(worker.pid, signal.SIGTERM)
time.sleep(0.2)
assert worker.is_alive()
if is_repeated:
    os.kill(worker.pid, signal.SIGTERM)
worker.join(60)  # torch would raise its error here
print("ended with", worker.exitcode, flush=True)
"""


@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_worker_ends_without_an_error_in_its_process_which_may_be_saving(is_repeated):
    """In a process of its own, of whose children nobody else takes note."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(is_repeated)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ended with 0\n", done.stderr


def test_a_child_leaves_ctrl_c_to_its_parent():
    with children_ignore_interrupts():
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1,))
        child.start()
    os.kill(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_command_that_gets_sigterm_leaves_no_traceback(tmp_path):
    """For real, in a process of its own, while the model is read."""
    script = (
        "import os, signal; from lightning_omni.cli import main;"
        "from lightning_omni.generation.omni import Omni;"
        "Omni.from_pretrained = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM);"
        "raise SystemExit(main(['generate', '--task', 'tqa', '--text', 'hi', '--out', 'out']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 143
    assert ended.stderr.endswith("stopped by SIGTERM\n")
    assert "Traceback" not in ended.stderr


STUCK = """
import ctypes, os, signal
from lightning_omni import stop_signals
stop_signals._STUCK_S = 0.5
stop_signals.before_end.append(lambda: print("called", flush=True))
with stop_signals.handle_stop_signals(stop_signals.raise_stopped):
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGTERM)  # of a child, which is not of this process
    os.wait()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # another thread gets it
    print("waits", flush=True)
    ctypes.CDLL(None).sleep(60)  # in C, where no handler runs
"""


def test_a_process_that_waits_in_c_ends_with_the_code_of_a_signal():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waits\n"
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "stopped by SIGTERM while waiting" in told
    assert said == "called\n"


LEAVES_IN_ORDER = """
import os, signal, time
from lightning_omni import stop_signals
stop_signals._STUCK_S = 0.2
with stop_signals.handle_stop_signals(stop_signals.raise_stopped):
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))  # as training notes it
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    signal.signal(signal.SIGTERM, before)
    time.sleep(1.0)  # what a run does when it has saved
    assert noted
try:
    with stop_signals.handle_stop_signals(stop_signals.raise_stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
except stop_signals.Stopped:
    pass
with stop_signals.handle_stop_signals(stop_signals.raise_stopped):
    time.sleep(1.0)  # a further command of the same process
print("left in order")
"""


def test_what_ends_in_order_after_a_signal_is_left_alone():
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_IN_ORDER], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "left in order\n"), done.stderr


def test_a_stop_that_is_dropped_on_its_way_ends_the_process(capfd):
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), handle_stop_signals(raise_stopped):
            with contextlib.suppress(BaseException):  # as C code that imports
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            os._exit(98)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert "stopped by SIGTERM while starting" in capfd.readouterr().err
