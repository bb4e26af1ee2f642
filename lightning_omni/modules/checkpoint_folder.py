"""Checkpoints as folders: each process writes its share, and any number of processes reads it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.tensor import DTensor

from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE, partial_file, sync_folder
from lightning_omni.modules.checkpoint_file import (
    Save,
    checksum_file,
    describe_save,
    parse_saves,
    remove_folder,
    set_folder_aside,
)
from lightning_omni.modules.checksummed_writer import ChecksummedWriter, describe_damaged_files
from lightning_omni.nn.sharded_tensors import distribute_like

log = logging.getLogger(__name__)

PLAIN_FILE = "meta.pt"
"""What is no tensor, with a placeholder for each tensor."""
_INDEX_FILE = ".metadata"
_PLACEHOLDER = "tensor of the folder"
Keys = tuple[Any, ...]
"""Keys that lead to a tensor of a checkpoint, outermost first."""
Counterpart = Callable[[Keys, torch.Size], Tensor | None]
"""Finds the tensor of the run that a stored one belongs to, and so how it is shared out."""


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a path is a complete checkpoint folder."""
    return (path / _INDEX_FILE).is_file() and (path / PLAIN_FILE).is_file()


def map_tensors(tree: Any, change: Callable[[Keys, Tensor], Any], path: Keys = ()) -> Any:
    """Return nested dictionaries, lists and tuples with every tensor replaced."""
    if isinstance(tree, Tensor):
        return change(path, tree)
    if isinstance(tree, dict):
        return {key: map_tensors(value, change, (*path, key)) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(map_tensors(v, change, (*path, i)) for i, v in enumerate(tree))
    return tree


def gather_checkpoint(checkpoint: dict[str, Any], *, keeps: bool) -> dict[str, Any]:
    """Return a checkpoint with whole tensors on the CPU; every process has to call it.

    Args:
        checkpoint: Nested dictionaries with sharded and other tensors.
        keeps: Whether this process needs them; else sharded ones become empty.
    """

    def gather(_: Keys, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        whole: Tensor = value.full_tensor()
        return whole.cpu() if keeps else whole.new_empty(0)

    found: dict[str, Any] = map_tensors(checkpoint, gather)
    return found


def shard_checkpoint(checkpoint: dict[str, Any], counterpart: Counterpart) -> dict[str, Any]:
    """Return a checkpoint of whole tensors, equal on all processes, sharded as the run is."""

    def share(path: Keys, value: Tensor) -> Tensor:
        own = counterpart(path, value.shape)
        if not isinstance(own, DTensor) or isinstance(value, DTensor):
            return value
        return distribute_like(value.to(own.device), own)

    found: dict[str, Any] = map_tensors(checkpoint, share)
    return found


class FolderWriter:
    """Writes checkpoints as folders that take their name when they are complete.

    A folder is never written into twice: one of the same name is replaced. `SHA256SUMS` in it
    lists the checksums of its files.

    Args:
        is_asynchronous: Train on while the folder is written from copies. The one before is
            awaited first, and is not deleted earlier.

    Source: `torch.distributed.checkpoint`.
    """

    def __init__(self, *, is_asynchronous: bool) -> None:
        self.is_asynchronous = is_asynchronous
        self._pending: Future[None] | None = None
        self._outdated: list[Path] = []
        self._group: Any = None

    def write(self, checkpoint: dict[str, Any], folder: Path) -> None:
        """Write a checkpoint; every process has to call it with the same folder.

        Raises:
            OmniError: On all processes, if one of them cannot write; the folder before is kept.
        """
        self.wait()
        partial = partial_file(folder)
        tensors: dict[str, Any] = {}
        plain = map_tensors(
            checkpoint, lambda path, value: _replace_by_placeholder(tensors, path, value)
        )
        is_first = dist.get_rank() == 0
        _first_process_writes(folder, lambda: _begin_folder(partial, plain))
        writer = ChecksummedWriter(partial, describe_save(checkpoint))
        if not self.is_asynchronous:
            try:
                save(tensors, storage_writer=writer)
            except CheckpointException as error:
                raise _explain_failed_save(folder, error) from error
            _first_process_writes(folder, lambda: _publish_folder(partial, folder))
            return
        if self._group is None:  # training uses the other one meanwhile
            self._group = dist.new_group(backend="gloo")
        saved: Any = async_save(tensors, storage_writer=writer, process_group=self._group)
        self._pending = Future()
        saved.add_done_callback(_make_publisher(self._pending, partial, folder, renames=is_first))

    def wait(self, *, is_alone: bool = False) -> None:
        """Wait until the last folder is complete; every process has to call it.

        Args:
            is_alone: Ask no other process, of which some may have ended with an error.

        Raises:
            OmniError: On all processes, if one of them could not write it.
        """
        pending, self._pending = self._pending, None
        outdated, self._outdated = self._outdated, []
        if pending is not None:
            if is_alone:
                pending.result()
            else:
                _raise_on_all_processes(pending, self._group)
        for path in outdated:
            remove(path)

    def remove(self, path: Path) -> None:
        """Delete a checkpoint once the last one is complete."""
        if self._pending is None:
            remove(path)
        else:
            self._outdated.append(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, a file with its checksum or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        doomed = path.with_name(f".{path.name}.deleted")  # not whole any more
        remove_folder(doomed)
        path.rename(doomed)
        remove_folder(doomed)
    else:
        path.unlink(missing_ok=True)
        checksum_file(path).unlink(missing_ok=True)


def _begin_folder(partial: Path, plain: Any) -> None:
    """Make a folder, and write what is no tensor."""
    remove_folder(partial)
    partial.mkdir(parents=True)
    with (partial / PLAIN_FILE).open("wb") as file:
        torch.save(plain, file)
        file.flush()
        os.fsync(file.fileno())


def _first_process_writes(folder: Path, work: Callable[[], None]) -> None:
    """Let the first process write, and all others know whether it could.

    Raises:
        OmniError: On all processes, if it could not.
    """
    failure: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            work()
        except (OSError, RuntimeError) as error:
            failure[0] = getattr(error, "strerror", None) or str(error)
            shutil.rmtree(partial_file(folder), ignore_errors=True)
    dist.broadcast_object_list(failure)
    if failure[0] is not None:
        raise _unwritable(folder, failure[0])


def _unwritable(folder: Path, why: str) -> OmniError:
    return OmniError(
        f"cannot write the checkpoint '{folder}' ({why}); what was saved before is kept"
    )


def _explain_failed_save(folder: Path, error: BaseException) -> OmniError:
    """Return what went wrong on one of the processes, and delete what was written."""
    if dist.get_rank() == 0:
        shutil.rmtree(partial_file(folder), ignore_errors=True)
    failures = getattr(error, "failures", {})
    first = next((one[0] for one in failures.values()), error)
    return _unwritable(folder, getattr(first, "strerror", None) or str(first))


def read_checkpoint_folder(
    folder: Path,
    counterpart: Counterpart = lambda *_: None,
    *,
    wanted: Callable[[Keys], bool] = lambda _: True,
    has_processes: bool = True,
    is_checked: bool = False,
) -> dict[str, Any]:
    """Return a checkpoint, its tensors sharded as the run is; every process has to call it.

    Args:
        folder: Folder of `FolderWriter`, written by any number of processes.
        counterpart: How a tensor is shared out; without, each process gets whole tensors.
        wanted: Which tensors to read; others are None.
        has_processes: Whether the process group reads together; else this process alone.
        is_checked: Whether its files were compared with their checksums just now.

    Raises:
        OmniError: If the folder is incomplete, or a file differs from its checksum.
    """
    if not is_checkpoint_folder(folder):
        raise OmniError(f"'{folder}' is not a complete checkpoint; give another one")
    if not is_checked:
        _refuse_damaged_files(folder, has_processes=has_processes)
    # our own folder: the storage's index is a pickle, too
    plain = torch.load(folder / PLAIN_FILE, weights_only=False)
    reader = FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    targets: dict[str, Any] = {}
    for path in _find_placeholders(plain):
        entry = stored.get(_tensor_name(path))
        if not isinstance(entry, TensorStorageMetadata):
            raise OmniError(
                f"'{folder}' lacks the tensor {_tensor_name(path)}; give another checkpoint"
            )
        if wanted(path):
            own = counterpart(path, entry.size)
            dtype = entry.properties.dtype
            targets[_tensor_name(path)] = (
                torch.empty_like(own, dtype=dtype, requires_grad=False)
                if isinstance(own, DTensor)
                else torch.empty(entry.size, dtype=dtype)
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(targets, storage_reader=reader, no_dist=not has_processes)
    except CheckpointException as error:
        raise OmniError(f"'{folder}' is damaged ({error}); give another checkpoint") from error
    found: dict[str, Any] = _insert_tensors(plain, targets)
    return found


def _refuse_damaged_files(folder: Path, *, has_processes: bool) -> None:
    """Compare a folder's files with their checksums before any is read.

    Raises:
        OmniError: On all processes, if a file that any of them looked at is damaged.
    """
    damaged = find_damaged_files(folder, has_processes=has_processes)
    if damaged is None:
        unreadable = find_cut_file(folder)
        damaged = [unreadable] if unreadable else []
        log.warning("'%s' has no %s, so flipped bits in it are not noticed", folder, SUMS_FILE)
    if damaged:
        raise OmniError(
            f"'{folder}' is damaged ({', '.join(damaged)}); give another checkpoint, or copy this "
            "one again"
        )


def find_cut_file(folder: Path) -> str:
    """Return a phrase about a file of a folder that ends early; empty if there is none.

    For folders of an earlier version, which have no checksums.
    """
    try:
        with zipfile.ZipFile(folder / PLAIN_FILE) as archive:
            if archive.testzip():
                return f"{PLAIN_FILE} differs from its checksum"
        stored = FileSystemReader(folder).read_metadata().storage_data
    except Exception as error:  # noqa: BLE001  of damaged pickles there are many
        return f"it cannot be read: {error}"
    for part in stored.values():
        path = folder / part.relative_path
        if not path.is_file() or path.stat().st_size < part.offset + part.length:
            return f"{part.relative_path} ends early"
    return ""


def find_damaged_files(folder: Path, *, has_processes: bool) -> list[str] | None:
    """Return a phrase about each damaged file of a folder; None if it has no list of checksums.

    Args:
        folder: Folder of `FolderWriter`.
        has_processes: Whether all processes look together, and each finds what any of them does.
    """
    if not (folder / SUMS_FILE).is_file():
        return None
    if has_processes:
        parts: list[Any] = [None] * dist.get_world_size()
        own = describe_damaged_files(folder, share=(dist.get_rank(), len(parts)))
        dist.all_gather_object(parts, own)
    else:
        parts = [describe_damaged_files(folder)]
    return sorted({one for part in parts for one in part})


def _replace_by_placeholder(tensors: dict[str, Any], path: Keys, value: Tensor) -> dict[str, str]:
    tensors[_tensor_name(path)] = value.detach()
    return {_PLACEHOLDER: _tensor_name(path)}


def _tensor_name(path: Keys) -> str:
    return "/".join(map(str, path))


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_PLACEHOLDER}


def _find_placeholders(tree: Any, path: Keys = ()) -> Iterator[Keys]:
    if _is_placeholder(tree):
        yield path
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _find_placeholders(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from _find_placeholders(value, (*path, i))


def _insert_tensors(tree: Any, tensors: dict[str, Any]) -> Any:
    if _is_placeholder(tree):
        return tensors.get(tree[_PLACEHOLDER])
    if isinstance(tree, dict):
        return {key: _insert_tensors(value, tensors) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_insert_tensors(value, tensors) for value in tree)
    return tree


def _publish_folder(partial: Path, folder: Path) -> None:
    """Give a complete folder its name; what had it is deleted afterwards."""
    sync_folder(partial)
    old = set_folder_aside(folder)
    if not folder.is_dir():
        folder.unlink(missing_ok=True)  # a file or a link
    partial.rename(folder)
    sync_folder(folder.parent)
    remove_folder(old)
    checksum_file(folder).unlink(missing_ok=True)


def finish_publication(folder: Path) -> bool:
    """Give a folder its name if its process was killed between the two renames that do so.

    Returns:
        Whether it was.
    """
    if folder.exists() or folder.is_symlink():
        return False
    for found in (partial_file(folder), folder.with_name(f".{folder.name}.old")):
        if is_checkpoint_folder(found) and (found / SUMS_FILE).is_file():
            with contextlib.suppress(FileNotFoundError):  # another process was first
                found.rename(folder)
            return True
    return False


def read_folder_save(folder: Path) -> Save | None:
    """Return what a folder's list of checksums says about it; None for an earlier version."""
    try:
        return next(iter(parse_saves((folder / SUMS_FILE).read_text("utf-8"))), None)
    except (OSError, ValueError):
        return None


def _raise_on_all_processes(pending: Future[None], group: Any) -> None:
    """Wait for this process's part, and raise the error of any."""
    error = pending.exception()
    parts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, None if error is None else str(error), group=group)
    told = next((one for one in parts if one is not None), None)
    if told is not None:
        raise OmniError(told) from error


def _make_publisher(
    finished: Future[None], partial: Path, folder: Path, *, renames: bool
) -> Callable[[Any], None]:
    """Return what is done when the tensors are written: the first process renames the folder."""

    def finish(saved: Any) -> None:
        try:
            saved.result()
            if renames:
                _publish_folder(partial, folder)
        except Exception as error:  # noqa: BLE001  shown by the next `wait`
            finished.set_exception(_explain_failed_save(folder, error))
        else:
            finished.set_result(None)

    return finish
