"""Speech for the speech tokenizer, from prepared media shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_omni.data.media import MIN_RATE, MIN_SECONDS, read_audio
from lightning_omni.data.resumable import ResumableData
from lightning_omni.data.shards import medium_of, read_manifest, read_shard, shard_paths
from lightning_omni.errors import OmniError, check_within


class SpeechData(ResumableData):
    """Training crops and validation crops.

    Args:
        data: Folder written by `make prep-data`.
        sample_rate: Sample rate in Hz, to which clips are resampled.
        crop_s: Length of a crop in seconds.
        batch_size: Crops per batch.
        val_batches: Number of batches of validation crops, the same each time.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        data: str,
        sample_rate: int,
        crop_s: float,
        batch_size: int,
        val_batches: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_within("data.sample_rate", sample_rate, MIN_RATE)
        check_within("data.crop_s", crop_s, MIN_SECONDS)
        check_within("data.batch_size", batch_size, 1)
        check_within("data.val_batches", val_batches, 1)
        check_within("data.seed", seed, 0)
        self.data, self.sample_rate = Path(data), sample_rate
        self.crop = round(crop_s * sample_rate)
        self.batch_size, self.val_batches, self.seed = batch_size, val_batches, seed

    def setup(self, stage: str) -> None:
        """Read and decode the shards."""
        read_manifest(self.data)
        self.waves = {split: self._read(split) for split in ("train", "val")}

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless random crops of the concatenated training clips, Float[B T]."""
        return self.endless(lambda number: self._draw_crops("train", (self.seed, number)))

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return a fixed list of crops."""
        fixed = [self._draw_crops("val", (self.seed, 0, n)) for n in range(self.val_batches)]
        return DataLoader(fixed, batch_size=None)  # type: ignore[arg-type]

    def _draw_crops(self, split: str, seed: tuple[int, ...]) -> Tensor:
        wave = self.waves[split]
        last = len(wave) - self.crop
        starts = np.random.default_rng(seed).integers(last, size=self.batch_size, endpoint=True)
        return torch.stack([wave[s : s + self.crop] for s in starts.tolist()])

    def _read(self, split: str) -> Tensor:
        clips = [
            read_audio(
                medium_of(files, key, path),
                sample_rate=self.sample_rate,
                name=key,
            )
            for path in shard_paths(self.data / "media", "speech", split)
            for key, files in read_shard(path)
        ]
        if sum(map(len, clips)) < self.crop:
            raise OmniError(
                f"the speech-{split} shards in '{self.data / 'media'}' hold less speech than one "
                f"crop of {self.crop} samples; prepare more speech or shorten crop_s"
            )
        return torch.from_numpy(np.concatenate(clips))
