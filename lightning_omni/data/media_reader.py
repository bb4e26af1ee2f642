"""Decoded media of one lane, for the tokenizers' training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from lightning_omni.data.lane_reader import Cursor, LaneReader
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import find_medium_file, list_shards
from lightning_omni.data.storage.locations import Location

CACHE_BYTES = 512 << 20
Decode = Callable[[bytes, str], Tensor]
"""Decodes a medium, given its name for errors."""


class DecodedMediaCache:
    """Decoded media, kept in memory until `limit` bytes are used; later ones are decoded anew.

    Args:
        decode: Decodes a medium.
        limit: Largest number of bytes that are kept.
    """

    def __init__(self, decode: Decode, limit: int = CACHE_BYTES) -> None:
        self.decode, self.room = decode, limit
        self._kept: dict[str, Tensor] = {}

    def __call__(self, key: str, files: dict[str, bytes], path: Location) -> Tensor:
        """Return the decoded medium of a key."""
        if key in self._kept:
            return self._kept[key]
        decoded = self.decode(find_medium_file(files, key, path), key)
        if decoded.nbytes <= self.room:
            self.room -= decoded.nbytes
            self._kept[key] = decoded
        return decoded


class MediaReader:
    """Opens lanes of decoded media of one modality and split.

    Args:
        data: Folder written by prep-data.
        modality: `image` or `speech`.
        split: Name of the split.
        lanes: Number of lanes.
        seed: Seed of the order.
        decode: Decodes a medium.
    """

    def __init__(
        self, data: Location, modality: str, split: str, *, lanes: int, seed: int, decode: Decode
    ) -> None:
        self.data, self.modality, self.split = data, modality, split
        self.lanes, self.seed = lanes, seed
        self.media = DecodedMediaCache(decode)
        self._reader: ShardReader | None = None

    def read_lane(self, number: int, cursor: Cursor = (0, 0)) -> Iterator[tuple[Tensor, Cursor]]:
        """Yield a lane's media without end, each with the cursor behind it.

        Raises:
            OmniError: If there are no such media, or one cannot be decoded.
        """
        lane = LaneReader(self._shard_reader(), number, cursor)
        while True:
            decoded = self.media(*next(lane))
            yield decoded, lane.cursor

    def num_media(self) -> int:
        """Return the number of media of the split."""
        return sum(shard.samples for shard in self._shard_reader().shards)

    def _shard_reader(self) -> ShardReader:
        if self._reader is None:
            shards = list_shards(self.data / "media", self.modality, self.split)
            seed = f"{self.seed}-{self.modality}"
            self._reader = ShardReader(shards, lanes=self.lanes, seed=seed)
        return self._reader
