"""The files and URLs that `--source` names, and the files below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from braceexpand import braceexpand

from lightning_omni.data.storage.locations import Location, parse_location
from lightning_omni.data.storage.url_text import is_url, redact_url
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf")
UNREAD_IMAGES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".svg")
"""Pictures that are left out by name, so that they are counted."""
UNREAD_AUDIO = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".sph", ".3gp")
"""The same of recordings."""
_CHECKS_AT_ONCE = 8
MAX_SOURCES = 1_000_000
"""Most files that the braces of a source may name."""
_DIGITS = 20  # of longer numbers these, which are too many files too
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")


def expand_sources(sources: Sequence[str | Path]) -> list[Location]:
    """Return the files, folders and URLs that sources name, after expanding braces.

    Raises:
        OmniError: If one does not exist, or a range in braces is malformed.
    """
    paths: list[Location] = []
    for source in map(str, sources):
        try:
            check_source_text(source)
            is_path = not is_url(source) and Path(source).exists()
            names = [source] if is_path else list(braceexpand(source))
        except (OSError, ValueError) as error:
            raise OmniError(
                f"--source '{redact_url(source)}' cannot be expanded ({type(error).__name__}); "
                "check its braces"
            ) from None
        found = map(parse_location, names)
        paths += [path.expanduser() if isinstance(path, Path) else path for path in found]
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        for path, exists in zip(paths, pool.map(_path_exists, paths), strict=True):
            if not exists:
                raise OmniError(f"no file or folder '{path}'; check --source")
    return paths


def check_source_text(source: str) -> None:
    """Refuse a source that names nothing, or more files than any corpus has.

    Raises:
        OmniError: If so.
    """
    if not source.strip() or "\0" in source:
        raise OmniError(f"--source is {source!r}, wanted a file, a folder or a URL")
    count = 1
    for numbers in _RANGE.findall(source):
        first, last, step = (int(number[:_DIGITS] or 1) for number in numbers)
        count *= 1 + abs(last - first) // max(1, abs(step))
    if count > MAX_SOURCES:
        raise OmniError(
            f"--source '{redact_url(source)}' names {count:,} files, at most {MAX_SOURCES:,} are "
            "taken; check its braces"
        )


def _path_exists(path: Location) -> bool:
    return path.exists()


def find_files(folder: Location, suffixes: tuple[str, ...]) -> Iterator[Location]:
    """Yield the files below a folder with one of the suffixes, in the order of their names.

    Linked folders are followed. Hidden files and folders, and those that macOS and network drives
    leave, are no files of a corpus. One folder's names are in memory at a time.

    Raises:
        OmniError: If the folder does not exist.
    """
    if isinstance(folder, Url):
        yield from _walk_url(folder, suffixes)
        return
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; check --source")
    yield from _walk_folder(folder, suffixes, (folder.resolve(),))


def is_passed_over(name: str) -> bool:
    """Whether a name is hidden, or of what macOS and network drives leave."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _walk_folder(
    folder: Path, suffixes: tuple[str, ...], above: tuple[Path, ...]
) -> Iterator[Path]:
    for name in sorted(os.listdir(folder)):
        if is_passed_over(name):
            continue
        path = folder / name
        if path.is_dir():
            real = path.resolve()
            if real not in above:  # a link to a folder above would not end
                yield from _walk_folder(path, suffixes, (*above, real))
        elif name.lower().endswith(suffixes) and path.is_file():
            yield path


def _walk_url(folder: Url, suffixes: tuple[str, ...]) -> Iterator[Url]:
    for url in folder.iterdir():
        if is_passed_over(url.address.rstrip("/").rpartition("/")[2]):
            continue
        if url.address.endswith("/"):
            yield from _walk_url(url, suffixes)
        elif url.name.lower().endswith(suffixes):
            yield url


def source_files(source: Location, suffixes: tuple[str, ...]) -> Iterator[Location]:
    """Yield a file, or the files of a folder with one of the suffixes.

    Raises:
        OmniError: If there is none.
    """
    found = False
    for path in [source] if source.is_file() else find_files(source, suffixes):
        found = True
        yield path
    if not found:
        raise OmniError(f"no {' or '.join(suffixes)} in '{source}'; check --source")


def check_is_read(path: Location, unread: tuple[str, ...], instead: str) -> None:
    """Refuse a file of a format that is not read.

    Args:
        path: The file.
        unread: Suffixes of formats that are not read.
        instead: Formats that are.

    Raises:
        OmniError: If its suffix is one of them.
    """
    suffix = path.suffix.lower()
    if suffix in unread:
        raise OmniError(f"{suffix} files are not read; convert it to {instead}")
