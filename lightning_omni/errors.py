"""The one exception a user is meant to read: a sentence, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OmniError(Exception):
    """A mistake the user can mend.

    The message names the thing, what it got, what it wanted and the way out. The command line
    prints it as one line and exits with code 2.
    """


def fold_text(text: str, limit: int = 300) -> str:
    """Return a text, as others' messages are, cut to a length that a sentence can hold."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def find_user_error(error: BaseException) -> OmniError | None:
    """The sentence for users that an error wraps, as parsers do with those of constructors."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmniError):
        cause = cause.__cause__ or cause.__context__
    return cause


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the choice nearest to a misspelt name, or nothing."""
    others = [choice for choice in choices if choice != name]
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
