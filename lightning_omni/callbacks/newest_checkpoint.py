"""The newest checkpoint of a run that is whole: all processes look, and find the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_omni.callbacks.checkpoint_names import CheckpointNames, claimed_save
from lightning_omni.callbacks.first_process import on_first_process
from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE
from lightning_omni.modules.checkpoint_file import Save, checksum_file, find_damage
from lightning_omni.modules.checkpoint_folder import (
    find_cut_file,
    find_damaged_files,
    is_checkpoint_folder,
    read_folder_save,
)

log = logging.getLogger(__name__)

_SHOWN = 3
_UNKNOWN = (False, 0.0)


Age = tuple[bool, float]
"""Whether it is known when a checkpoint was saved, and that time or the file's, in seconds since
1970; one of an earlier version of the program counts as older than others."""


class Look(NamedTuple):
    """What a look at a checkpoint showed.

    Attributes:
        damage: What is wrong with it; empty if nothing is.
        age: When it was saved.
    """

    damage: str
    age: Age


def find_newest_valid(
    keepers: Sequence[ModelCheckpoint], group: Any, *, is_fit: bool
) -> tuple[Path | None, str]:
    """Return the newest checkpoint that is whole, or None if there is none, and what to say.

    All processes have to call it.

    Args:
        keepers: Callbacks that write checkpoints.
        group: Group of `make_host_group`.
        is_fit: Whether training goes on from it, for which weights alone are not enough.

    Raises:
        OmniError: If there are checkpoints and none is valid, or none at all for another verb.
    """
    claims = on_first_process(lambda: _list_claims(keepers, is_fit=is_fit), group)
    if not claims:
        folders = ", ".join(sorted({f"'{k.dirpath}'" for k in keepers})) or "this run"
        if not is_fit:
            raise OmniError(f"no checkpoint in {folders}; give --ckpt_path with a .ckpt file")
        return None, f"no checkpoint in {folders}, so the run begins at step 0"
    whole: set[str] = set()
    damaged: list[str] = []
    while claims:
        path = max(claims, key=lambda path: (claims[path], path))
        claimed = claims.pop(path)
        found = Look("", claimed) if path in whole else look_at_checkpoint(Path(path), group)
        if found.damage:
            damaged.append(f"'{path}' is damaged ({found.damage})")
        elif found.age < claimed:  # the one before that which was to take its name
            claims[path] = found.age
            whole.add(path)
        else:
            lost = "".join(f"{one}; " for one in [*damaged, *_describe_undated(found.age, claims)])
            return Path(path), f"{lost}the newest valid checkpoint is '{path}'"
    raise OmniError(
        f"there are checkpoints but none is valid: {'; '.join(damaged)}; copy one again, or delete "
        "them to begin at step 0"
    )


def _describe_undated(age: Age, others: dict[str, Age]) -> list[str]:
    """Return a phrase about each other checkpoint that may be newer than the one of an age."""
    return [
        f"'{path}' has no readable checksum, so it counts as older (give it as --ckpt_path to go "
        "on from it)"
        for path, (is_known, changed_s) in sorted(others.items())
        if age[0] and not is_known and changed_s > age[1]
    ]


def look_at_checkpoint(path: Path, group: Any) -> Look:
    """Compare a checkpoint with its checksums; all processes have to call it."""
    if not on_first_process(path.is_dir, group):
        return on_first_process(lambda: _look_at_file(path), group)
    if not on_first_process(lambda: is_checkpoint_folder(path), group):
        return Look("it is not complete", _UNKNOWN)
    damaged = find_damaged_files(path, has_processes=group is not None)
    if damaged is None:
        cut = on_first_process(lambda: find_cut_file(path), group)
        damaged = [cut] if cut else []
        if group is None or dist.get_rank() == 0:
            log.warning("'%s' has no %s, so flipped bits in it are not noticed", path, SUMS_FILE)
    return Look(", ".join(damaged), _age(path, read_folder_save(path)))


def _list_claims(keepers: Sequence[ModelCheckpoint], *, is_fit: bool) -> dict[str, Age]:
    """Return checkpoints that a run can go on from, with the age that each claims.

    Raises:
        OmniError: If there are checkpoints, but none from which a run can go on.
    """
    found: dict[str, Age] = {}
    others: list[str] = []
    for keeper in keepers:
        names = CheckpointNames(keeper)
        if is_fit:
            names.finish_publications()
        for path in names.list_checkpoints():
            save = claimed_save(path)
            is_whole = save.is_whole if save else not keeper.save_weights_only
            if is_whole or not is_fit:
                found[str(path)] = _age(path, save)
            else:
                others.append(f"'{path}' holds weights alone")
        foreign = [path for path in names.folder.glob("*.ckpt") if not names.is_ours(path)]
        others += [f"'{path}' has another name than the run's" for path in foreign]
    if others and not found:
        raise OmniError(
            f"no checkpoint to go on from: {'; '.join(others[:_SHOWN])}; give --ckpt_path with a "
            "file, or delete them to begin at step 0"
        )
    return found


def _look_at_file(path: Path) -> Look:
    if not path.exists():
        return Look("it does not exist", _UNKNOWN)
    damage, save = find_damage(path)
    if not damage and save is None:
        log.warning(
            "'%s' is of an earlier version, without a checksum in %s",
            path,
            checksum_file(path).name,
        )
    return Look(damage, _UNKNOWN if damage else _age(path, save))


def _age(path: Path, save: Save | None) -> Age:
    return (True, save.saved_s) if save else (False, path.lstat().st_mtime)
