"""The one exception a user is meant to read: a sentence, never a traceback."""

from __future__ import annotations


class OmniError(Exception):
    """A mistake the user can mend.

    The message names the thing, what it got, what it wanted and the way out. The command line
    prints it as one line and exits with code 2.
    """
