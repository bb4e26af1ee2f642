"""A file or folder at a URL, with the reading half of a path's methods."""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from lightning_omni.data.storage.remote_file import RemoteFile
from lightning_omni.data.storage.request_errors import MissingFileError, MissingFolderError
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.data.storage.url_text import (
    WEB,
    redact_url,
    replace_url_path,
    url_path,
    url_scheme,
)
from lightning_omni.errors import OmniError

_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class FileSize:
    """The size of a file, named as in `os.stat_result`."""

    st_size: int


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A file or folder at a URL; as text it shows no credentials.

    Attributes:
        address: The URL as it was given.
    """

    address: str

    def __str__(self) -> str:
        return redact_url(self.address)

    def __repr__(self) -> str:
        return f"Url('{self}')"

    def __lt__(self, other: Url) -> bool:
        return self.address < other.address

    def __truediv__(self, name: str | PurePosixPath) -> Url:
        joined = f"{url_path(self.address).rstrip('/')}/{str(name).lstrip('/')}"
        return Url(replace_url_path(self.address, joined))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return url_path(self.address).rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Last suffix of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """The folder above."""
        above = url_path(self.address).rstrip("/").rpartition("/")[0]
        return Url(replace_url_path(self.address, above))

    def with_name(self, name: str) -> Url:
        """Return a file beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Url:
        """Return the file of the same stem with another suffix."""
        return self.with_name(self.stem + suffix)

    @property
    def can_be_listed(self) -> bool:
        """Whether its server tells what is in a folder, as object stores do and web servers not."""
        return url_scheme(self.address) not in WEB

    def is_file(self) -> bool:
        """Tell whether there is such a file, as the server says now."""
        if self.address.endswith("/"):
            return False
        try:
            shared_url_reader().file_info(self.address, anew=True)
        except MissingFileError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there is such a folder; of web servers, whether a slash says so."""
        if url_scheme(self.address) in WEB:
            return self.address.endswith("/")
        try:
            names = shared_url_reader().list_names(self.address)
        except (MissingFileError, NotADirectoryError):
            return False
        return names not in ([], [self.name])

    def exists(self) -> bool:
        """Tell whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def stat(self) -> FileSize:
        """Return the size of the file.

        Raises:
            OmniError: If there is none.
        """
        try:
            return FileSize(shared_url_reader().file_info(self.address).size)
        except MissingFileError:
            raise OmniError(f"no file '{self}'; check its spelling") from None

    def read_range(self, start: int, size: int, *, anew: bool = False) -> bytes:
        """Return `size` bytes from `start` on, fewer at the end of the file.

        Args:
            start: First byte.
            size: Number of bytes.
            anew: Whether to fetch them even if they are in the cache.
        """
        return shared_url_reader().read_range(self.address, start, start + size, anew=anew)

    def read_bytes(self) -> bytes:
        """Return the whole file, as it is now.

        Raises:
            OmniError: If there is none.
        """
        if not self.is_file():
            raise OmniError(f"no file '{self}'; check its spelling")
        return self.read_range(0, self.stat().st_size)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole file as text."""
        return self.read_bytes().decode(encoding)

    def open(
        self, mode: str = "r", *, encoding: str | None = None, newline: str | None = None
    ) -> IO[Any]:
        """Open the file for reading."""
        raw = io.BufferedReader(RemoteFile(self.read_range, self.stat().st_size), _BUFFER)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8", newline=newline)

    def iterdir(self) -> Iterator[Url]:
        """Yield what is in this folder, in the order of names.

        Raises:
            OmniError: If the server has no listings, or there is no such folder.
        """
        try:
            names = shared_url_reader().list_names(self.address)
        except (MissingFileError, NotADirectoryError):
            raise MissingFolderError(f"no folder '{self}'; check its spelling") from None
        for name in sorted(names):
            if not (name == self.name and len(names) == 1):
                yield self / name

    def glob(self, pattern: str) -> Iterator[Url]:
        """Yield the files in this folder that match a pattern without folders."""
        for found in self.iterdir():
            if fnmatch.fnmatchcase(found.name, pattern) and not found.address.endswith("/"):
                yield found
