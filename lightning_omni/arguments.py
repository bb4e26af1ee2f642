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
        wanted = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise OmniError(f"{name} is {value}, wanted {wanted}")
