"""Run a call with limits on its time and memory, and tell what became of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from fault import Outcome

from lightning_omni.errors import OmniError
from lightning_omni.studies.bench.peak_memory import start_peak_meter

PATIENCE_S = 10


class Limits(NamedTuple):
    """What a call may take.

    Attributes:
        seconds: Processor time; the wall clock of a busy machine says little.
        megabytes: Growth of the resident memory at its peak.
    """

    seconds: float
    megabytes: float


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done after {PATIENCE_S} s")


def run_within(
    limits: Limits, call: Callable[[], Any], is_right: Callable[[Any], bool], detail: str
) -> Outcome:
    """Run a call, whose result has to be right, or a sentence for the user.

    Args:
        limits: What it may take.
        call: What is run.
        is_right: Tells whether its result is right.
        detail: How to see it again.
    """
    grown = start_peak_meter()
    before = signal.signal(signal.SIGALRM, _raise_timeout)
    signal.alarm(PATIENCE_S)
    began = time.process_time()
    try:
        result = call()
        right, what = (True, "right result") if is_right(result) else (False, "wrong result")
    except OmniError:
        right, what = True, "a sentence"
    except Exception as error:  # noqa: BLE001  that none comes is what is tested
        right, what, detail = False, f"raw {type(error).__name__}", f"{detail}: {error!r}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    seconds, megabytes = time.process_time() - began, grown()
    if seconds > limits.seconds or megabytes > limits.megabytes:
        detail = f"{detail}: {what} after {seconds:.2f} s and {megabytes:.0f} MB"
        return Outcome(False, "beyond its limits", detail)
    return Outcome(right, what, "" if right else detail)
