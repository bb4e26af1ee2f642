"""Reader of other people's tars, sample by sample, as a stream."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Self

from data_prep.corpora.entries import (
    Entry,
    UnusableEntry,
    UsableEntry,
    estimate_lost_entries,
    make_entry,
)
from data_prep.corpora.file_parts import FilePart, cut_at_bytes
from data_prep.corpora.source_files import source_files
from lightning_omni.data.media import MAX_FILE_BYTES
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512
_MAX_HEADER = 1 << 20
"""Most bytes of a long name and the like, which tarfile reads at once."""
_MAX_EXPANSION = 100
_LEAST_LIMIT = 1 << 30
"""A compressed tar is read up to a hundred times its size, and up to so many bytes at least."""

Files = dict[str, bytes]


def tar_entries(
    source: Location,
    make: Callable[[str, Files], UsableEntry],
    part: FilePart | None = None,
) -> Iterator[Entry]:
    """Yield an entry for each sample of a tar, or of the tars below a folder.

    A sample is the files of one name, which follow one another: `KEY.jpg`, `KEY.txt`. Names may
    have folders, spaces and dots; the last dot ends the key. A damaged tar gives its samples up to
    the damage, and the rest counts as unusable.

    Args:
        source: Tar, compressed by gzip or not, or a folder of tars.
        make: Makes an entry of its origin and the sample's files by extension, in lower case.
        part: Part of the tar to read, see `tar_parts`; None for all of it.

    Raises:
        OmniError: If there are no tars.
    """
    first = part.start if part else 0
    for path in source_files(source, TAR_SUFFIXES):
        count, end = 0, first
        try:
            for key, files, position in _read_samples(path, part):
                count, end = count + 1, position
                origin = f"{path}:{key}"
                yield make_entry(origin, partial(make, origin, files))
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            behind = f" behind byte {first}" if first else ""
            why = str(error).partition(":\n")[0]  # tarfile lists each compression that it tried
            reason = f"damaged after {count} samples{behind} ({why}); copy the file again"
            lost = estimate_lost_entries(path.stat().st_size - end, count, end - first)
            yield UnusableEntry(str(path), reason, lost)


def tar_parts(path: Location, bytes_per_part: int) -> list[FilePart]:
    """Return the parts of a tar, which begin at samples; none if it is read as a whole.

    The headers are read and what lies between them is not, so only uncompressed tars on a disk are
    divided. A tar is divided up to where it is damaged.

    Args:
        path: The tar.
        bytes_per_part: Least number of bytes of a part, but for the last.
    """
    if isinstance(path, Url) or not path.name.lower().endswith(".tar"):
        return []
    size = path.stat().st_size
    if size <= bytes_per_part:
        return []
    starts = ((start, start) for start in _iter_sample_starts(path))
    try:
        return list(cut_at_bytes(starts, end=(None, size), bytes_per_part=bytes_per_part))
    except _GlobalHeaderError:
        return []


class _BoundedHeader(tarfile.TarInfo):
    """Header of a tar that takes no memory that another file would fill."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header.

        Raises:
            ReadError: If it says that a name or another fact is longer than any is.
        """
        found = super().frombuf(buf, encoding, errors)
        if found.type in _HEADERS and found.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _GlobalHeaderError(Exception):
    """A header of a tar applies to all that follow it."""


def _iter_sample_starts(path: Path) -> Iterator[int]:
    """Yield the first byte of each sample of a tar, up to where it is damaged."""
    current: str | None = None
    try:
        with path.open("rb") as file, _open_plain(file) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # as in `_read_samples`
                if tar.pax_headers:
                    raise _GlobalHeaderError
                name = _split_member_name(member)
                if name and name[0] != current:
                    yield 0 if current is None else member.offset
                    current = name[0]
    except (tarfile.TarError, OSError, EOFError):
        return  # who reads the last part tells of it


def find_required_file(files: Files, extensions: tuple[str, ...], origin: str) -> bytes:
    """Return the file with one of the extensions.

    Raises:
        OmniError: If there is none.
    """
    for extension in extensions:
        if extension in files:
            return files[extension]
    raise OmniError(
        f"'{origin}' has no {' or '.join(extensions)} beside {', '.join(sorted(files))}"
    )


def decode_text(content: bytes, origin: str) -> str:
    """Return the text of a file, stripped of white space.

    Raises:
        OmniError: If it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise OmniError(f"the text of '{origin}' is not UTF-8 ({error})") from error


def _read_samples(path: Location, part: FilePart | None) -> Iterator[tuple[str, Files, int]]:
    """Yield key, files by extension and the byte behind them."""
    start, stop = (part.start, part.stop) if part else (0, None)
    current, files, end = "", Files(), start
    size = path.stat().st_size
    limit = max(_MAX_EXPANSION * size, _LEAST_LIMIT)
    with _open_tar(path, start) as tar:
        while (member := tar.next()) is not None and (stop is None or member.offset < stop):
            tar.members.clear()  # type: ignore[attr-defined]  # headers that were read, which tarfile would keep
            if member.offset_data + member.size > limit:
                raise tarfile.ReadError(
                    f"'{member.name}' ends behind byte {limit:,}, but the file has {size:,}"
                )
            name = _split_member_name(member)
            content = tar.extractfile(member) if name else None
            if name and content is not None:
                if files and name[0] != current:
                    yield current, files, end
                    files = {}
                current = name[0]
                files[name[1]] = content.read(MAX_FILE_BYTES + 1)  # who uses it refuses more
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
        if files:
            yield current, files, end
        if stop is None:
            _check_archive_end(tar, end)


def _open_plain(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:", tarinfo=_BoundedHeader)


@contextmanager
def _open_tar(path: Location, start: int) -> Iterator[tarfile.TarFile]:
    """Open a tar at a header."""
    with path.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:*", tarinfo=_BoundedHeader) as tar:
            yield tar


def _split_member_name(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Split a name; None for what is no file of a sample."""
    path = PurePosixPath(member.name)
    stem, dot, extension = path.name.rpartition(".")
    is_hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    if not member.isreg() or not dot or is_hidden:
        return None
    return str(path.with_name(stem)), extension.lower()


def _check_archive_end(tar: tarfile.TarFile, end: int) -> None:
    """Check that only the end of the archive is left: tarfile stops silently at a bad header."""
    stream = tar.fileobj
    if stream is None:
        return
    stream.seek(end)
    rest = stream.read(2 * _BLOCK)
    if len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
        raise tarfile.ReadError(f"no valid header at byte {end}")
