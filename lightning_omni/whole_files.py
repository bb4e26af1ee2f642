"""Files and folders that have their old or their new content, whatever the disk does meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from lightning_omni.errors import OmniError
from lightning_omni.files import sync_to_disk


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; the file has its old content until all is written.

    Raises:
        OmniError: If that fails, naming the file.
    """
    write_files({path: text.encode("utf-8", "backslashreplace")})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together: none has its new content until all are written.

    Raises:
        OmniError: If that fails, naming the file.
    """
    with replace_when_complete(*contents) as partials:
        for partial, content in zip(partials, contents.values(), strict=True):
            partial.write_bytes(content)


@contextmanager
def replace_when_complete(*paths: Path) -> Iterator[list[Path]]:
    """Give paths to write to, which take the names of `paths` when the block ends.

    An error leaves the old files and nothing else. Suffixes are those of `paths`.

    Raises:
        OmniError: If the disk is full, read-only or faulty, naming the file.
    """
    partials = [path.with_name(f".partial-{os.getpid()}-{path.name}") for path in paths]
    try:
        yield partials
        for partial in partials:
            sync_to_disk(partial)
        for partial, path in zip(partials, paths, strict=True):
            partial.replace(path)
    except (OSError, SafetensorError) as error:
        names = {str(p): path for p, path in zip(partials, paths, strict=True)}
        name = names.get(str(getattr(error, "filename", None)), _first_unwritten(partials, paths))
        raise cannot_write(name, error) from error
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def replace_folder_when_complete(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which replaces `folder` when the block ends.

    An error leaves the old folder. A process that is killed between two renamings leaves it under
    a name that ends in `.old`; then the next call puts it back first.

    Raises:
        OmniError: If the disk is full, read-only or faulty, naming the folder.
    """
    target = folder.resolve()
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    try:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                sync_to_disk(path)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def cannot_write(path: Path, error: Exception) -> OmniError:
    """Return the sentence about a file that could not be written."""
    why = getattr(error, "strerror", None) or str(error)
    return OmniError(
        f"cannot write '{path}' ({why}); what was there is unchanged; free some space or choose "
        "another place"
    )


def _first_unwritten(partials: list[Path], paths: tuple[Path, ...]) -> Path:
    """Return the last file that was begun: those before it were written."""
    begun = [path for partial, path in zip(partials, paths, strict=True) if partial.exists()]
    return begun[-1] if begun else paths[0]
