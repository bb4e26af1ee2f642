"""Write safetensors one weight at a time, so that a 7B model is imported in a few GB of memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.interop.checkpoint import FLOATS, INDEX, read_headers, read_weights
from lightning_omni.pretrained import WEIGHTS_FILE

_BYTES = {
    "I64": 8,
    "F64": 8,
    "F32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of a value by format, in the order in which safetensors writes formats."""
_DTYPES = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
}


@dataclass(frozen=True, slots=True)
class _Slot:
    """Position of a tensor in a file."""

    file: Path
    offset: int


def copy_weights(
    files: list[Path],
    names: Mapping[str, list[str]],
    folder: Path,
    *,
    shard_bytes: int | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> None:
    """Copy weights under other names; one tensor is in memory at a time.

    Args:
        files: files to read.
        names: new names of each stored weight; an empty list leaves the weight out.
        folder: folder to write into.
        shard_bytes: size beyond which weights are split, with an index; None never splits.
        metadata: header entries of each file.
        dtype: format of the written weights; None copies them bit by bit.

    Raises:
        OmniError: If a weight is damaged, of a format that cannot be written, or beyond `dtype`.
    """
    stored = read_headers(files)
    entries = {}
    for old, news in names.items():
        entry = stored[old]
        if entry.format not in _BYTES:
            raise OmniError(
                f"{old} in '{entry.file}' is {entry.format}, wanted {', '.join(_BYTES)}"
            )
        entries.update(dict.fromkeys(news, (written_format(entry.format, dtype), entry.shape)))
    shards = _divide_into_shards(entries, shard_bytes)
    slots: dict[str, _Slot] = {}
    for file, shard in shards.items():
        slots |= _write_header(folder / file, shard, metadata or {})
    for old, tensor in read_weights(files):
        if names[old]:
            tensor = _convert_format(tensor, dtype, about=f"{old} in '{stored[old].file}'")
        for new in names[old]:
            _write_tensor(tensor, slots[new])
        del tensor  # it keeps its file in memory
    if len(shards) > 1:
        total = sum(_size_in_bytes(*entry) for entry in entries.values())
        weight_map = {name: slots[name].file.name for name in sorted(entries)}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def written_format(stored: str, dtype: str | None) -> str:
    """Return the safetensors format that a stored weight is written in."""
    return _DTYPES[dtype][0] if dtype is not None and stored in FLOATS else stored


def _convert_format(tensor: Tensor, dtype: str | None, *, about: str) -> Tensor:
    """Return a floating-point tensor in another format.

    Raises:
        OmniError: If a value is beyond its range.
    """
    if dtype is None or not tensor.is_floating_point():
        return tensor
    target = _DTYPES[dtype][1]
    if tensor.numel() and tensor.abs().max() > torch.finfo(target).max:
        raise OmniError(f"{about} has values beyond the range of {dtype}; choose another --dtype")
    return tensor.to(target)


_Entries = dict[str, tuple[str, tuple[int, ...]]]


def _divide_into_shards(entries: _Entries, limit: int | None) -> dict[str, _Entries]:
    """Return file names with their weights, in order; a larger weight has a file of its own."""
    filled: list[_Entries] = [{}]
    used = 0
    for name, entry in entries.items():
        size = _size_in_bytes(*entry)
        if limit is not None and filled[-1] and used + size > limit:
            filled.append({})
            used = 0
        filled[-1][name] = entry
        used += size
    if len(filled) == 1:
        return {WEIGHTS_FILE: filled[0]}
    count = len(filled)
    return {f"model-{i:05}-of-{count:05}.safetensors": s for i, s in enumerate(filled, 1)}


def _write_header(file: Path, entries: _Entries, metadata: Mapping[str, str]) -> dict[str, _Slot]:
    """Write the header as `safetensors` does, and return the positions of its tensors."""
    order = list(_BYTES)
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    starts, end = {}, 0
    for name in sorted(entries, key=lambda name: (order.index(entries[name][0]), name)):
        kind, shape = entries[name]
        starts[name], start = end, end
        end += _size_in_bytes(kind, shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        out.truncate(8 + len(raw) + end)
    return {name: _Slot(file, 8 + len(raw) + start) for name, start in starts.items()}


def _write_tensor(tensor: Tensor, slot: _Slot) -> None:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    with slot.file.open("r+b") as out:
        out.seek(slot.offset)
        out.write(raw.data)


def _size_in_bytes(kind: str, shape: tuple[int, ...]) -> int:
    return _BYTES[kind] * math.prod(shape)
