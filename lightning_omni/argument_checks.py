"""Checks of numbers and texts that a user gives."""

from __future__ import annotations

import math
import unicodedata

from lightning_omni.errors import OmniError

MAX_SEED = 2**63 - 1


def check_within(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a number outside `[least, most]`, or one that is not a number.

    Raises:
        OmniError: Naming the option, what it got and what it takes.
    """
    if not isinstance(value, int | float):
        raise OmniError(f"{name} is {value!r}, wanted a number")
    if not least <= value <= most:
        lower, upper = (str(x) if isinstance(x, int) else f"{x:g}" for x in (least, most))
        wanted = f"at least {lower}" if most == math.inf else f"{lower} to {upper}"
        raise OmniError(f"{name} is {value}, wanted {wanted}")


def check_seed(seed: int, *, runs: int = 1) -> None:
    """Check that a seed, and the seeds that follow it, fit into 63 bits.

    Args:
        seed: seed of the first run.
        runs: number of runs; each takes the seed of the one before plus 1.

    Raises:
        OmniError: If one does not.
    """
    check_within("seed", seed, 0, MAX_SEED - runs + 1)
    check_integer("seed", seed)


def check_integer(name: str, value: object) -> None:
    """Refuse what is no integer, such as 2.0 or True.

    Raises:
        OmniError: If so.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise OmniError(f"{name} is {value!r}, wanted an integer")


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: white space, control and format characters only."""
    return not text.strip() or all(
        c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text
    )
