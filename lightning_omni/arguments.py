"""Limits of numbers that users give."""

from __future__ import annotations

import math

from lightning_omni.errors import OmniError


def check_within(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a number outside `[least, most]`, or one that is not a number.

    Raises:
        OmniError: Naming the option, what it got and what it takes.
    """
    if not least <= value <= most:
        lower, upper = (str(x) if isinstance(x, int) else f"{x:g}" for x in (least, most))
        wanted = f"at least {lower}" if most == math.inf else f"{lower} to {upper}"
        raise OmniError(f"{name} is {value}, wanted {wanted}")
