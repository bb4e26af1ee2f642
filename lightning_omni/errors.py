"""The one exception a user is meant to read: a sentence, never a traceback."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class OmniError(Exception):
    """A mistake the user can mend.

    The message names the thing, what it got, what it wanted and the way out. The command line
    prints it as one line and exits with code 2.
    """


def sentence_behind(error: BaseException) -> OmniError | None:
    """The sentence for users that an error wraps, as parsers do with those of constructors."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmniError):
        cause = cause.__cause__ or cause.__context__
    return cause


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


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the choice nearest to a misspelt name, or nothing."""
    others = [choice for choice in choices if choice != name]
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
