"""A run's first process leaves with the code of one that it has started and that fails."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies.launchers import subprocess_script

from lightning_omni import launched_processes
from lightning_omni.stop_signals import Stopped, handle_stop_signals, raise_stopped


class Launcher(subprocess_script._SubprocessScriptLauncher):
    """Starts a process that runs a line of Python."""

    def __init__(self, line):
        super().__init__(SimpleNamespace(creates_processes_externally=False), 2, 1)
        self.line = line

    def start(self):
        self.procs = [subprocess.Popen([sys.executable, "-c", self.line])]
        subprocess_script._launch_process_observer(self.procs)


def leave_after(line):
    """Exit code of a first process that waits while its second one runs a line."""
    child = os.fork()
    if not child:
        launcher = Launcher(line)
        launched_processes.watch_launched_processes(launcher)
        launcher.start()
        try:
            with handle_stop_signals(raise_stopped):
                time.sleep(20)
        except Stopped as stopped:
            os._exit(stopped.exit_code)
        os._exit(98)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("raise SystemExit(143)", 143),
        ("import os; os.kill(os.getpid(), 15)", 143),
        ("raise SystemExit(2)", 2),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
def test_the_first_process_leaves_with_the_code_of_the_second(line, code, monkeypatch, capfd):
    monkeypatch.setattr(launched_processes, "_LEAVE_S", 0.5)
    assert leave_after(line) == code
    is_stop = code == 143
    assert ("process 1 of this run left with code" in capfd.readouterr().err) != is_stop
