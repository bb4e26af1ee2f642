"""Batches of media that a device encodes, and whose codes are read back at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_omni.data.encoding.code_store import Array

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class ComputedBatch:
    """Codes of media on a device that may still compute them.

    Attributes:
        keys: Names of the media in stored order.
        parts: Indices in `keys` and codes, Int[B N], of media with equally many codes.
    """

    keys: list[str]
    parts: list[tuple[list[int], Tensor]]

    def read(self, dtype: np.dtype[Any]) -> Iterator[tuple[str, Array]]:
        """Yield key and codes of each medium, in stored order, after one copy from the device."""
        flat = torch.cat([codes.flatten() for _, codes in self.parts]).cpu().numpy().astype(dtype)
        ends = np.cumsum([codes.numel() for _, codes in self.parts])
        rows: dict[int, Array] = {}
        for (indices, codes), end in zip(self.parts, ends, strict=True):
            of_part = flat[end - codes.numel() : end].reshape(codes.shape)
            rows.update(zip(indices, of_part, strict=True))
        for index, key in enumerate(self.keys):
            yield key, rows[index]


def encode_in_batches(
    prepared: Iterable[_Item], compute: Callable[[_Item], ComputedBatch], dtype: np.dtype[Any]
) -> Iterator[tuple[str, Array]]:
    """Yield key and codes of all media in stored order.

    The host prepares a batch while a GPU computes the one before. That one is read back before the
    next is sent, as a copy waits for all that was sent.

    Args:
        prepared: Batches as the host decodes them.
        compute: Sends a batch to the device and starts to encode it.
        dtype: Format of the codes.
    """
    sent: ComputedBatch | None = None
    for batch in prepared:
        before = [] if sent is None else list(sent.read(dtype))
        sent = compute(batch)
        yield from before
    if sent is not None:
        yield from sent.read(dtype)


def send_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting for a GPU."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def split_into_groups(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield lists of `size` items in order; the last one may be shorter."""
    group: list[_Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def group_by_length(waves: list[Tensor]) -> list[list[int]]:
    """Return the indices of waves, Float[1 T], of each length."""
    indices: dict[int, list[int]] = defaultdict(list)
    for index, wave in enumerate(waves):
        indices[wave.shape[1]].append(index)
    return list(indices.values())
