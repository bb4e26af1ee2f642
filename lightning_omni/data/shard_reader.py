"""Read samples of shards by byte range, in the pools of the epoch order."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Int64

from lightning_omni.data.epoch_order import EpochOrder, SampleRange
from lightning_omni.data.shard_index import StoredIndex, parse_members
from lightning_omni.data.shards import Shard, check_sample_count
from lightning_omni.data.storage.locations import Location, read_range
from lightning_omni.data.storage.read_ahead import shared_read_ahead
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError
from lightning_omni.files import OpenFiles

_OPEN_FILES = 32
_INDICES_KEPT = 1024


@dataclass(frozen=True, slots=True)
class _ByteRange:
    """Bytes `[start, stop)` of a shard."""

    path: Location
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class SamplePool:
    """Byte ranges of the samples of a pool in the order in which they are read, Int64[N] each.

    Attributes:
        ranges: Pieces of shards of which the pool consists.
        range_of: Index of each sample's piece in `ranges`.
        offsets: First byte of each sample in its shard.
        sizes: Bytes of each sample.
        checksums: CRC-32 of these bytes.
    """

    ranges: tuple[_ByteRange, ...]
    range_of: Int64[np.ndarray, " N"]
    offsets: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]
    checksums: Int64[np.ndarray, " N"]


class ShardReader:
    """The shards of one kind, read by byte range; lanes of a process share it.

    Args:
        shards: Shards in the order of their names.
        lanes: Number of lanes of the stream.
        seed: Seed of the order.

    Raises:
        OmniError: If the shards hold no samples.
    """

    def __init__(self, shards: Sequence[Shard], *, lanes: int, seed: str) -> None:
        if not any(shard.samples for shard in shards):
            first = f", first '{shards[0].path}'" if shards else ""
            raise OmniError(f"the shards hold no samples{first}; prepare the data again")
        self.shards, self.lanes = tuple(shards), lanes
        self.order = EpochOrder([s.samples for s in shards], lanes=lanes, seed=seed)
        self._index = lru_cache(_INDICES_KEPT)(self._read_index)
        self._file = OpenFiles(_OPEN_FILES)

    def load_pool(self, number: int) -> SamplePool:
        """Return the byte ranges of a pool's samples, permuted."""
        ranges: list[_ByteRange] = []
        columns = []
        parts = self.order.sample_ranges(number)
        if isinstance(self.shards[0].path, Url) and shared_url_reader().cache.limit:
            for part in parts:
                shared_read_ahead().add(partial(self._fetch_ahead, part))
        for part in parts:
            index = self._index(part.shard).read_part(part.start, part.stop)
            found = np.stack([index.offsets, index.sizes, index.checksums])
            columns.append(np.insert(found, 0, len(ranges), axis=0))
            end = int(found[0, -1] + found[1, -1])
            ranges.append(_ByteRange(self.shards[part.shard].path, int(found[0, 0]), end))
        table = np.concatenate(columns, axis=1)
        permuted = table[:, self.order.permutation(number, table.shape[1])]
        return SamplePool(tuple(ranges), *permuted)

    def read_sample(self, pool: SamplePool, index: int) -> tuple[str, dict[str, bytes], Location]:
        """Return key, files and shard of a sample.

        Raises:
            OmniError: If its bytes are not those that were written.
        """
        part = pool.ranges[int(pool.range_of[index])]
        size, offset = int(pool.sizes[index]), int(pool.offsets[index])
        checksum = int(pool.checksums[index])
        block = self._read_bytes(part.path, offset, size, checksum)
        return *parse_members(block, part.path, checksum=checksum), part.path

    def _fetch_ahead(self, part: SampleRange) -> None:
        """Fetch the blocks of a shard at a URL that hold samples of a pool."""
        index = self._index(part.shard).read_part(part.start, part.stop)
        start, stop = int(index.offsets[0]), int(index.offsets[-1] + index.sizes[-1])
        read_range(self.shards[part.shard].path, start, stop - start)
        shared_url_reader().add_count("ranges_ahead")

    def _read_bytes(self, path: Location, offset: int, size: int, checksum: int) -> bytes:
        """Return bytes of a shard; those of a URL are fetched again if the checksum differs."""
        if isinstance(path, Url):
            found = path.read_range(offset, size)
            if zlib.crc32(found) == checksum:
                return found
            shared_url_reader().add_count("damaged")
            return path.read_range(offset, size, anew=True)
        try:
            return os.pread(self._file.descriptor(path), size, offset)
        except OSError as error:
            raise OmniError(f"cannot read '{path}' ({error}); is it still there?") from error

    def _read_index(self, shard: int) -> StoredIndex:
        path, samples = self.shards[shard].path, self.shards[shard].samples
        listed = self.shards[shard].listed
        try:
            index = StoredIndex(path, sha256=None if listed is None else listed.sha256)
        except OSError as error:
            raise OmniError(f"cannot read '{path}' ({error}); is it still there?") from error
        check_sample_count(path, len(index), samples)
        return index
