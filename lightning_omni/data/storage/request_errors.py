"""Errors of requests, as storage clients raise them."""

from __future__ import annotations

from lightning_omni.data.storage.url_text import redact_url
from lightning_omni.errors import OmniError


class MissingFileError(Exception):
    """There is no such file."""


class AccessDeniedError(OmniError):
    """The server refuses a request to who asks."""


class MissingFolderError(OmniError):
    """There is no such folder."""


class TransientError(Exception):
    """A request failed in a manner that may pass.

    Args:
        reason: What came instead of the bytes, without credentials.
        content: Bytes that came before.
        wait_s: Seconds that the server wants the client to wait.
        is_unreachable: Whether no connection to the server came about.
    """

    def __init__(
        self,
        reason: str,
        *,
        content: bytes = b"",
        wait_s: float = 0.0,
        is_unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.content, self.wait_s, self.is_unreachable = content, wait_s, is_unreachable


def missing_file_error(url: str) -> OmniError:
    """Return the error for a file that is not there."""
    return OmniError(
        f"no file '{redact_url(url)}'; check its spelling, and whether the upload was complete"
    )


def access_denied_error(url: str, came: str) -> AccessDeniedError:
    """Return the error for a file that may not be read."""
    return AccessDeniedError(
        f"'{redact_url(url)}' may not be read ({came}); give credentials as its client expects "
        "them: ~/.netrc for web servers, the environment for s3, gs and hf"
    )


def no_credentials_error(url: str, came: str) -> OmniError:
    """Return the error where credentials are missing or have expired."""
    return OmniError(
        f"'{redact_url(url)}' may not be read without valid credentials ({came}); give them as "
        "its client expects them: in the environment for s3, gs and hf"
    )


def retries_exhausted_error(url: str, attempts: int, reason: str) -> OmniError:
    """Return the error after the last attempt."""
    return OmniError(
        f"cannot read '{redact_url(url)}' after {attempts} attempts, the last of which failed: "
        f"{reason}; check the address and the network, then start again"
    )


def file_changed_error(url: str) -> OmniError:
    """Return the error for a file that was replaced while it was read."""
    return OmniError(
        f"'{redact_url(url)}' was replaced by another file while it was read; start again, and "
        "write new data beside the old"
    )
