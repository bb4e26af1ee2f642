"""Read JSON that somebody may have damaged; make folders for output before the work begins."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lightning_omni.errors import OmniError

SUMS_FILE = "SHA256SUMS"


class TextFile(Protocol):
    """A file whose text can be read: a path, or a file elsewhere with such a method."""

    def read_text(self, encoding: str = ...) -> str:
        """Return the text."""


def read_json_object(path: TextFile, *, remedy: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file, which exists.
        remedy: What the user can do if it is damaged.

    Raises:
        OmniError: If it is not JSON, or holds something else than an object.
    """
    try:
        text = path.read_text("utf-8")
    except ValueError as error:
        raise OmniError(f"'{path}' is not JSON ({error}); {remedy}") from error
    return parse_json_object(text.encode(), name=f"'{path}'", remedy=f"; {remedy}")


def parse_json_object(content: bytes, *, name: str, remedy: str = "") -> dict[str, Any]:
    """Parse JSON that is an object, as UTF-8 with or without the mark that editors begin with.

    Args:
        content: The JSON.
        name: What it is, in errors.
        remedy: What the user can do, the end of the sentence.

    Raises:
        OmniError: If it is not JSON, or something else than an object.
    """
    try:
        plain = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise OmniError(f"{name} is not JSON ({error}){remedy}") from error
    if not isinstance(plain, dict):
        raise OmniError(f"{name} holds a JSON {type(plain).__name__}, not an object{remedy}")
    return plain


def expand_home(path: str) -> str:
    """Return a path with a leading `~/` replaced by the home folder; other texts as they are.

    A single `~` is nothing in YAML.
    """
    return os.path.expanduser(path) if path.startswith("~/") else path


_OPEN_FILES = ("/dev/fd/", "/proc/self/fd/")
"""Where a shell's `<(command)` is, a pipe that has a writer."""


def read_regular_file(path: Path, *, limit: int, name: str | None = None) -> bytes:
    """Read a file that somebody gave, which may be no file at all or larger than memory.

    Args:
        path: The file.
        limit: Most bytes that are accepted.
        name: Name in errors; None for the path.

    Raises:
        OmniError: If it is a pipe, a device or a folder, or has more bytes.
        OSError: If it cannot be read.
    """
    shown = name or str(path)
    found = path.stat()
    is_handed_over = str(path).startswith(_OPEN_FILES) and stat.S_ISFIFO(found.st_mode)
    if not stat.S_ISREG(found.st_mode) and not is_handed_over:
        raise OmniError(f"'{shown}' is {_kind_of_file(found.st_mode)}, wanted a file on a disk")
    check_file_size(found.st_size, limit, shown)
    with path.open("rb") as file:
        content = file.read(limit + 1)  # it may grow meanwhile
    check_file_size(len(content), limit, shown)
    return content


def check_file_size(size: int, limit: int, name: str) -> None:
    """Refuse a file that is too large to be read at once.

    Raises:
        OmniError: If it has more bytes than the limit.
    """
    if size > limit:
        raise OmniError(
            f"'{name}' has {size / 1e6:,.1f} MB, at most {limit / 1e6:,.0f} MB are accepted; is it "
            "the right file?"
        )


def _kind_of_file(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "a device")


def make_folder(folder: Path) -> Path:
    """Make a folder for output, its parents too.

    Raises:
        OmniError: If that cannot be done, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OmniError(
            f"cannot write into '{folder}' ({error.strerror}); choose another place"
        ) from error
    return folder


def make_parent_folder(file: Path) -> Path:
    """Make the folder of a file to be written.

    Raises:
        OmniError: If that cannot be done, or a folder stands where the file should go.
    """
    if file.is_dir():
        raise OmniError(f"'{file}' is a folder, wanted the name of a file to write")
    make_folder(file.parent)
    return file


@contextlib.contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that takes its name when it is complete.

    An error leaves nothing; a process that is killed leaves the unfinished folder, whose name ends
    in `.partial`.

    Raises:
        OmniError: If the folder holds something, or cannot be written.
    """
    check_folder_is_free(folder)
    partial = _partial_path(folder)
    make_folder(partial.parent)
    try:
        partial.mkdir()
    except OSError as error:
        raise OmniError(f"cannot write '{partial}' ({error.strerror})") from error
    try:
        yield partial
        partial.rename(folder.resolve())
    except OSError as error:
        raise OmniError(
            f"cannot write '{partial}' ({error.strerror or error}); is the disk full?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folder_is_free(folder: Path) -> None:
    """Refuse a place that a whole result cannot take, before any work is done.

    Raises:
        OmniError: If it is a file or holds something, or an earlier run left its beginning.
    """
    if folder.exists() and not folder.is_dir():
        raise OmniError(f"cannot write into '{folder}' (it is a file); choose another place")
    if folder.is_dir():
        _check_empty(folder)
    partial = _partial_path(folder)
    if partial.exists():
        raise OmniError(f"'{partial}' is left of a run that was stopped; delete it")


@contextlib.contextmanager
def file_lock(path: Path, *, waits: bool = True, is_needed: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on a file and yield the file's descriptor.

    Args:
        path: The file, which is made if it does not exist.
        waits: Whether to wait for another process that holds the lock.
        is_needed: Whether a file system without locks is an error.

    Raises:
        BlockingIOError: If another process holds the lock, and this one does not wait.
        OSError: If the file cannot be made or locked.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if is_needed:
                raise
        yield file.fileno()


class OpenFiles:
    """Descriptors of the files that were read last.

    Args:
        limit: Number of files that are open at one time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: dict[Path, int] = {}

    def descriptor(self, path: Path) -> int:
        """Return the descriptor of a file, opened for reading."""
        found = self._open.pop(path, None)
        if found is None:
            found = os.open(path, os.O_RDONLY)
            if len(self._open) >= self.limit:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = found
        return found

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        """Close all files."""
        self.close()


def partial_file(path: Path) -> Path:
    """Return where a file or folder is written before it takes its name."""
    return path.with_name(f".{path.name}.partial")


def replace_file(path: Path, text: str) -> None:
    """Write a file that has its old or its new content at any time, also after a loss of power.

    Raises:
        OSError: If that fails; the old content is kept.
    """
    partial = partial_file(path)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(text.encode())
            while rest:  # a full disk may take a part and say so at the next
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by name of all files in a folder and below it."""
    sums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sums[path.relative_to(folder).as_posix()] = file_sha256(path)
    return sums


def write_checksums(folder: Path) -> None:
    """List a folder's files with their checksums in `SHA256SUMS`, as `sha256sum -c` reads them."""
    (folder / SUMS_FILE).unlink(missing_ok=True)
    lines = [f"{digest}  {name}\n" for name, digest in file_checksums(folder).items()]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def _check_empty(folder: Path) -> None:
    if any(folder.iterdir()):
        raise OmniError(f"'{folder}' is not empty; choose another place")


def _partial_path(folder: Path) -> Path:
    target = folder.resolve()
    return target.with_name(target.name + ".partial")


def is_json_integer(value: Any) -> bool:
    """Tell whether a value read from JSON is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)
