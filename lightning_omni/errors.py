"""The one exception a user is meant to read: a sentence, never a traceback."""

from __future__ import annotations


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
