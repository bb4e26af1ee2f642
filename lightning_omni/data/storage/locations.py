"""Where data are: a local path or a URL."""

from __future__ import annotations

from pathlib import Path

from lightning_omni.data.storage.url_text import (
    has_credentials,
    is_url,
    redact_url,
    url_path,
    url_scheme,
)
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError
from lightning_omni.files import check_file_size, expand_home, read_regular_file

Location = Path | Url


def parse_location(source: str | Path | Url) -> Location:
    """Return a path or URL; `file://` names a local path."""
    if not isinstance(source, str):
        return source
    if not is_url(source):
        return Path(expand_home(source))
    return Path(url_path(source)) if url_scheme(source) == "file" else Url(source)


def parse_recorded_location(source: str, option: str) -> Location:
    """Return the location that a recipe names, which the run writes into its records.

    Raises:
        OmniError: If it holds credentials.
    """
    if is_url(source) and has_credentials(source):
        raise OmniError(
            f"{option} '{redact_url(source)}' comes with a user, password or query, which the "
            "run's records would show; give credentials by ~/.netrc or the environment"
        )
    return parse_location(source)


def read_limited(path: Location, *, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes.

    Raises:
        OSError: If a local file cannot be read.
        OmniError: If it is no regular file, has more bytes, or a file at a URL cannot be read.
    """
    if not isinstance(path, Url):
        return read_regular_file(path, limit=limit)
    check_file_size(path.stat().st_size, limit, str(path))
    return path.read_bytes()


def read_range(path: Location, start: int, size: int) -> bytes:
    """Return `size` bytes of a file from `start` on, fewer at its end.

    Raises:
        OSError: If a local file cannot be read.
        OmniError: If a file at a URL cannot.
    """
    if isinstance(path, Url):
        return path.read_range(start, size)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(size)
