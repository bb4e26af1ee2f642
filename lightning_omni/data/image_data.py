"""Images for the image tokenizer, from prepared media shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_omni.data.media import read_image, square
from lightning_omni.data.resumable import ResumableData
from lightning_omni.data.shards import medium_of, read_manifest, read_shard, shard_paths
from lightning_omni.errors import OmniError, check_within


def to_float(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map bytes to [-1, 1]."""
    return pixels.float() / 127.5 - 1


class Images(Dataset[Tensor]):
    """Decoded square images, kept in memory as bytes."""

    def __init__(self, pixels: UInt8[Tensor, "N 3 Y X"]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        """Return pixels in [-1, 1], Float[3 Y X]."""
        return to_float(self.pixels[index])


class ImageData(ResumableData):
    """Training and validation images.

    Args:
        data: Folder written by `make prep-data`.
        image_size: Side of the images in pixels; others are scaled and cut.
        batch_size: Images per batch.
        seed: Seed of their order.
    """

    def __init__(self, data: str, image_size: int, batch_size: int, seed: int) -> None:
        super().__init__()
        check_within("data.image_size", image_size, 1)
        check_within("data.batch_size", batch_size, 1)
        check_within("data.seed", seed, 0)
        self.data, self.image_size = Path(data), image_size
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        """Read and decode the shards."""
        read_manifest(self.data)
        self.images = {split: Images(self._read(split)) for split in ("train", "val")}

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless batches, every image once per epoch but those that fill no batch."""
        pixels = self.images["train"].pixels
        per_epoch = len(pixels) // self.batch_size
        if per_epoch == 0:
            raise OmniError(
                f"'{self.data}' has {len(pixels)} training images, fewer than one batch of "
                f"{self.batch_size}; prepare more, or lower data.batch_size"
            )

        def draw(number: int) -> Tensor:
            epoch, batch = divmod(number, per_epoch)
            order = np.random.default_rng((self.seed, epoch)).permutation(len(pixels))
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            return to_float(pixels[torch.from_numpy(chosen)])

        return self.endless(draw)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return all validation images."""
        return DataLoader(self.images["val"], self.batch_size)

    def _read(self, split: str) -> Tensor:
        images = []
        for path in shard_paths(self.data / "media", "image", split):
            for key, files in read_shard(path):
                content = medium_of(files, key, path)
                picture = square(read_image(content, name=key), self.image_size)
                images.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8))
        if not images:
            raise OmniError(f"no image-{split} shards in '{self.data / 'media'}'; prepare images")
        size = self.image_size
        return torch.stack(images).view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()
