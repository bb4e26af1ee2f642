"""A fault that is caused on purpose, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What one fault led to.

    Attributes:
        is_right: Whether that is what should happen.
        what: In a few words, the same for all outcomes of the kind; the report counts them.
        detail: How to see it again, shown where it is not right.
    """

    is_right: bool
    what: str
    detail: str = ""


class Fault(NamedTuple):
    """A row of the report.

    Attributes:
        name: What is done.
        calls: How often `run` is called in the whole campaign.
        run: Takes the number of the call, which seeds it, and an empty folder, and yields what the
            faults it caused led to; one call may cause several.
        fast_calls: How often it is called in the tests.
    """

    name: str
    calls: int
    run: Callable[[int, Path], Iterable[Outcome]]
    fast_calls: int = 1
