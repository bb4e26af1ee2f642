"""What becomes of a run's first process when one that it has started leaves with an error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_omni.stop_signals import EXIT_CODES, raise_stopped

_LOOK_S = 0.2
_LEAVE_S = 5.0
_OBSERVED_S = 1.0
"""When Lightning's observer has begun for certain; it looks after five seconds."""


def watch_launched_processes(launcher: _SubprocessScriptLauncher) -> None:
    """Leave with the exit code of the first process that fails of those that a launcher starts.

    One that a signal stopped stops this process, too. After another failure this one has five
    seconds to end with an error of its own, before all are ended.

    Takes the place of Lightning's observer, which kills this process, so that its code is 137.
    """
    if not launcher.cluster_environment.creates_processes_externally:
        threading.Thread(target=_watch, args=(launcher,), daemon=True).start()


def _watch(launcher: _SubprocessScriptLauncher) -> None:
    while len(launcher.procs) < launcher.num_processes - 1:
        time.sleep(_LOOK_S)
    time.sleep(_OBSERVED_S)
    watched = launcher.procs
    launcher.procs = list(watched)
    watched.clear()  # which ends the observer
    failed = None
    while failed is None:
        if not launcher.procs:  # they leave by themselves
            return
        failed = next((rank for rank, p in enumerate(launcher.procs) if p.poll()), None)
        time.sleep(_LOOK_S)
    _leave_with(launcher, failed)


def _leave_with(launcher: _SubprocessScriptLauncher, failed: int) -> None:
    code = launcher.procs[failed].returncode
    if code < 0:  # a signal killed it
        code = {int(one): stopped for one, stopped in EXIT_CODES.items()}.get(-code, 128 - code)
    asked = next((one for one, stopped in EXIT_CODES.items() if stopped == code), None)
    if asked is not None and signal.getsignal(asked) is raise_stopped:
        os.kill(os.getpid(), asked)
    else:
        sys.stderr.write(f"process {failed + 1} of this run left with code {code}\n")
    time.sleep(_LEAVE_S)
    if launcher.procs:
        sys.stderr.flush()
        for process in launcher.procs:
            process.kill()
        os._exit(code)
