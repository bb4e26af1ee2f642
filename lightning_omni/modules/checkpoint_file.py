"""Checkpoints as files: complete or absent, each with its checksum beside it."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_omni.errors import OmniError
from lightning_omni.files import file_sha256, partial_file, replace_file, sync_folder

RUN = "run"
"""Entry of a checkpoint about its run: when it was begun, its settings and its processes."""
_SUFFIX = ".sha256"
_SAVE = re.compile(
    r"(# run begun (\S+), step (\d+), saved ([^\s,]+)(, weights alone)?)(?:, sum ([0-9a-f]{16}))?"
)
_SUM = re.compile(r"([0-9a-f]{64})  \S")


class Save(NamedTuple):
    """What a list of checksums says about a checkpoint.

    Attributes:
        begun: When its run was begun; empty if that is not known.
        step: Step of the checkpoint, -1 if that is not known.
        saved_s: When it was saved, in seconds since 1970.
        sha256: Checksum of the file; empty for a folder.
        is_whole: Whether a run can go on from it, for which weights alone are not enough.
    """

    begun: str
    step: int
    saved_s: float
    sha256: str = ""
    is_whole: bool = True


def now() -> str:
    """Return the time, as it is written beside checkpoints."""
    return datetime.now(UTC).isoformat()


def describe_save(checkpoint: dict[str, Any]) -> str:
    """Return a comment of a list of checksums: the run, the step and the time of a checkpoint.

    A checksum of the comment itself ends it.
    """
    begun = checkpoint.get(RUN, {}).get("begun") or "-"
    alone = "" if "optimizer_states" in checkpoint else ", weights alone"
    return _sealed(f"# run begun {begun}, step {checkpoint.get('global_step', 0)}", now(), alone)


def _sealed(about: str, saved: str, alone: str = "") -> str:
    """Return a comment with its checksum."""
    comment = f"{about}, saved {saved}{alone}"
    return f"{comment}, sum {_sum_of_comment(comment)}\n"


def _sum_of_comment(comment: str) -> str:
    return hashlib.sha256(comment.encode()).hexdigest()[:16]


def parse_comment(line: str) -> Save | None:
    """Return what a comment says; None if it is not one of ours, or differs from its checksum.

    Comments of earlier versions have none.
    """
    found = _SAVE.fullmatch(line)
    if found is None:
        return None
    comment, begun, step, saved, alone, stated = found.groups()
    if stated is not None and stated != _sum_of_comment(comment):
        return None
    try:
        saved_s = datetime.fromisoformat(saved).timestamp()
    except ValueError:
        return None
    return Save("" if begun == "-" else begun, int(step), saved_s, is_whole=not alone)


def parse_saves(text: str) -> list[Save]:
    """Return what a list of checksums says, newest first; nothing if it is not one of ours."""
    found: list[Save | None] = []
    for line in text.splitlines():
        if line.startswith("#"):
            found.append(parse_comment(line))
        elif (checksum := _SUM.match(line)) and found and found[-1] is not None:
            found[-1] = found[-1]._replace(sha256=checksum[1])
    return [one for one in found if one is not None]


def checksum_file(checkpoint: Path) -> Path:
    """Return the file beside a checkpoint file that holds its checksum."""
    return checkpoint.with_name(checkpoint.name + _SUFFIX)


def read_saves(checkpoint: Path) -> list[Save]:
    """Return what is written beside a checkpoint file; nothing for one of an earlier version."""
    beside = checksum_file(checkpoint.resolve())
    if not beside.is_file():
        return []
    return [one for one in parse_saves(beside.read_text("utf-8", errors="replace")) if one.sha256]


def find_damage(checkpoint: Path) -> tuple[str, Save | None]:
    """Return what is wrong with a checkpoint file, empty if nothing is, and what it is.

    A file of an earlier version, without a checksum beside it, is read by the checksums of the
    archive that it is; then there is nothing to say about what it is.
    """
    try:
        if checksum_file(checkpoint.resolve()).is_file():
            digest = file_sha256(checkpoint)
            one = next((s for s in read_saves(checkpoint) if s.sha256 == digest), None)
            return ("" if one else _explain_difference(checkpoint, digest)), one
        with zipfile.ZipFile(checkpoint) as archive:
            entry = archive.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return f"it cannot be read: {getattr(error, 'strerror', None) or error}", None
    return (f"the entry {entry} differs from its checksum" if entry else ""), None


def _explain_difference(checkpoint: Path, digest: str) -> str:
    """Return how a checkpoint and what is written beside it differ."""
    beside = checksum_file(checkpoint.resolve())
    if digest in beside.read_text("utf-8", errors="replace"):
        return f"what {beside.name} says of its run and step was changed"
    return f"it differs from its checksum in {checkpoint.name}{_SUFFIX}"


def refuse_damaged_file(checkpoint: Path) -> None:
    """Refuse a checkpoint file that is damaged.

    Raises:
        OmniError: If it is.
    """
    damage, _ = find_damage(checkpoint)
    if damage:
        raise OmniError(
            f"the checkpoint '{checkpoint}' is damaged ({damage}); give another one, --ckpt_path "
            "last for the newest valid one, or copy it again"
        )


def load_checkpoint_file(checkpoint: Path, **options: Any) -> dict[str, Any]:
    """Return what a file holds that torch has saved: a checkpoint, or weights alone.

    Args:
        checkpoint: File.
        options: Options of `torch.load`.

    Raises:
        OmniError: If it cannot be read, or holds other objects than tensors and plain values.
    """
    try:
        found: dict[str, Any] = torch.load(checkpoint, **options)
    except pickle.UnpicklingError as error:
        raise OmniError(
            f"'{checkpoint}' holds more than tensors and plain values, which is not loaded; give a "
            "checkpoint of a run"
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, IndexError) as error:
        raise OmniError(
            f"the checkpoint '{checkpoint}' is damaged ({error}); give another one"
        ) from error
    return found


def refuse_other_contents(path: Any, contents: Any) -> None:
    """Refuse what is no checkpoint of a run.

    Raises:
        OmniError: If so.
    """
    if not isinstance(contents, dict) or "state_dict" not in contents:
        raise OmniError(f"'{path}' holds no weights of a run; give a checkpoint of a run")


class CheckpointFileIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and renames them; a checksum is kept beside each.

    At any time there is the one before or the new one, whole, also after a loss of power. Places
    that are URLs are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OmniError: If it cannot be written; the one before is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what a checkpoint holds.

        Raises:
            OmniError: If it cannot be read.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        if Path(path).is_dir():
            raise folder_without_shards(path)
        return load_checkpoint_file(
            Path(path), map_location=map_location, weights_only=weights_only is not False
        )

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint and its checksum."""
        if "://" in str(path):
            super().remove_checkpoint(path)
            return
        Path(path).unlink(missing_ok=True)
        checksum_file(Path(path)).unlink(missing_ok=True)


def folder_without_shards(path: Any) -> OmniError:
    """Return what is said about a folder where the strategy reads files only."""
    return OmniError(
        f"the checkpoint '{path}' is a folder of a sharded run; add --config "
        "recipes/strategy/fsdp2.yaml, with --trainer.devices 1 for one device"
    )


def write_checkpoint_file(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that its name is that of a whole one at any time.

    Until the file is renamed, the checksums of both are beside it, so that either is valid.

    Raises:
        OmniError: If it cannot be written; the one before is kept.
    """
    partial = partial_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = _write_hashed(checkpoint, partial)
        own = f"{describe_save(checkpoint)}{digest}  {path.name}\n"
        earlier = _checksums_of_earlier_file(path)
        replace_file(checksum_file(path), own + earlier)
        old = set_folder_aside(path)
        partial.replace(path)
        sync_folder(path.parent)
        remove_folder(old)
        if earlier:
            replace_file(checksum_file(path), own)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OmniError(
            f"cannot write the checkpoint '{path}' ({error.strerror or error}); what was saved "
            "before is kept"
        ) from error


def set_folder_aside(path: Path) -> Path:
    """Free the name of a checkpoint from a folder that has it, and return where the folder is."""
    old = path.with_name(f".{path.name}.old")
    remove_folder(old)
    if path.is_dir() and not path.is_symlink():
        path.rename(old)
    return old


def remove_folder(path: Path) -> None:
    """Delete a folder if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _checksums_of_earlier_file(path: Path) -> str:
    """Return the lines about the file that is going to be replaced, if there is one."""
    if path.is_symlink() or not path.is_file():
        return ""
    beside = checksum_file(path)
    if beside.is_file():
        return beside.read_text("utf-8", errors="replace")
    saved = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    about = _sealed("# run begun -, step 0", saved)
    return f"{about}{file_sha256(path)}  {path.name}\n"


def _write_hashed(checkpoint: dict[str, Any], path: Path) -> str:
    """Write a file to the disk and return its SHA-256.

    Raises:
        OSError: If that fails.
    """
    with path.open("wb") as file:
        hashed = _HashedFile(file)
        try:
            torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # all that it calls
        except RuntimeError as error:  # by which torch replaces that of `write`
            raise hashed.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return hashed.sha256.hexdigest()


class _HashedFile:
    """Open file that is hashed as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all bytes."""
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Do nothing, as who opened the file flushes it."""
