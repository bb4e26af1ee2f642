"""Images for the image tokenizer, from prepared media shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_omni.argument_checks import check_within
from lightning_omni.data.lanes import LaneLoader, Position
from lightning_omni.data.manifest import manifest_digest, read_manifest
from lightning_omni.data.media import center_crop_and_resize, read_image, scale_pixels
from lightning_omni.data.media_reader import DecodedMediaCache, MediaReader
from lightning_omni.data.resumable_data import LANES, ResumableData
from lightning_omni.data.sample_counts import Counts, DrawCounter
from lightning_omni.data.shard_checks import check_shards
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards, read_shard
from lightning_omni.data.storage.locations import parse_recorded_location


class ImageBatches:
    """Opens lanes of image batches, Float[B 3 Y X].

    Args:
        reader: Decoded pictures, UInt8[3 Y X].
        batch_size: Images per batch, B.
    """

    def __init__(self, reader: MediaReader, batch_size: int) -> None:
        self.reader, self.batch_size = reader, batch_size

    def __call__(self, lane: int, position: Position | None) -> Iterator[tuple[Tensor, Position]]:
        """Yield a lane's batches without end, each with the position behind it."""
        turn, offset = (position or {"cursor": (0, 0)})["cursor"]
        pictures = self.reader.read_lane(lane, (turn, offset))
        while True:
            chosen, cursors = zip(*islice(pictures, self.batch_size), strict=True)
            yield scale_pixels(torch.stack(chosen)), {"cursor": list(cursors[-1])}


class ImageData(ResumableData):
    """Training and validation images, read as they are needed.

    Args:
        data: Folder or URL written by `make prep-data`.
        image_size: Side of the images in pixels; others are scaled and cut.
        batch_size: Images per batch.
        seed: Seed of their order.
        lanes: Lanes of the training stream, a multiple of processes times workers.
        num_workers: Worker processes that load the training batches of each process; 0 for none.
    """

    def __init__(
        self,
        data: str,
        image_size: int,
        batch_size: int,
        seed: int,
        lanes: int = LANES,
        num_workers: int = 0,
    ) -> None:
        super().__init__(lanes, num_workers)
        check_within("data.image_size", image_size, 1)
        check_within("data.batch_size", batch_size, 1)
        check_within("data.seed", seed, 0)
        self.data, self.image_size = parse_recorded_location(data, "data.data"), image_size
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        """Check that there are shards of both splits."""
        read_manifest(self.data)
        check_shards(self.data / "media")
        for split in ("train", "val"):
            list_shards(self.data / "media", "image", split)
        self.val_pictures = DecodedMediaCache(self.decode_image)

    def stream_identity(self) -> dict[str, Any]:
        """Return what the positions of lanes depend on."""
        return {**super().stream_identity(), "data": manifest_digest(self.data), "seed": self.seed}

    def train_dataloader(self) -> LaneLoader:
        """Return endless batches, Float[B 3 Y X], in which every image comes equally often."""
        reader = MediaReader(
            self.data, "image", "train", lanes=self.lanes, seed=self.seed, decode=self.decode_image
        )
        return self.make_lane_loader(ImageBatches(reader, self.batch_size))

    def samples_in_batch(self, batch: Tensor) -> Counts:
        """Return the number of pictures that a training batch holds."""
        return {"image": len(batch)}

    def samples_up_to(self, lane: int, position: Position) -> Counts:
        """Return the number of pictures in a lane's batches up to a position."""
        return {"image": self.draw_counter.count_drawn(lane, position["cursor"])}

    def samples_per_epoch(self) -> Counts:
        """Return the number of training pictures."""
        return {"image": self.draw_counter.order.num_samples}

    @cached_property
    def draw_counter(self) -> DrawCounter:
        """What counts the pictures that were drawn."""
        shards = list_shards(self.data / "media", "image", "train")
        return DrawCounter(ShardReader(shards, lanes=self.lanes, seed="").order, self.lanes)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return all validation images in stored order, the same on each process."""
        return DataLoader(_ValidationImages(self), self.batch_size)

    def decode_image(self, content: bytes, name: str) -> UInt8[Tensor, "3 Y X"]:
        """Decode a picture and make it square."""
        picture = center_crop_and_resize(read_image(content, name=name), self.image_size)
        size = self.image_size
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.view(size, size, 3).permute(2, 0, 1).contiguous()


class _ValidationImages(IterableDataset[Tensor]):
    """The validation images in stored order."""

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self.shards = list_shards(data.data / "media", "image", "val")

    def __iter__(self) -> Iterator[Tensor]:
        for shard in self.shards:
            for key, files in read_shard(shard.path, shard.listed):
                yield scale_pixels(self.data.val_pictures(key, files, shard.path))
