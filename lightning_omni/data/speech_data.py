"""Speech for the speech tokenizer, from prepared media shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_omni.argument_checks import check_within
from lightning_omni.data.lane_reader import Cursor
from lightning_omni.data.lanes import LaneLoader, Position
from lightning_omni.data.manifest import manifest_digest, read_manifest
from lightning_omni.data.media import MIN_RATE, MIN_SECONDS, read_audio
from lightning_omni.data.media_reader import MediaReader
from lightning_omni.data.resumable_data import LANES, ResumableData
from lightning_omni.data.sample_counts import Counts
from lightning_omni.data.shard_checks import check_shards
from lightning_omni.data.shards import list_shards
from lightning_omni.data.storage.locations import parse_recorded_location
from lightning_omni.errors import OmniError


class SpeechCrops:
    """Opens lanes of batches of crops, Float[B T].

    A crop begins anywhere in a clip, at its last sample too, and is continued by the next clips. So
    the ends of clips come as often as their middles.

    Args:
        reader: Decoded clips, Float[S].
        crop: Samples of a crop, T.
        batch_size: Crops per batch, B.
        seed: Seed of where crops begin.
    """

    def __init__(self, reader: MediaReader, *, crop: int, batch_size: int, seed: int) -> None:
        self.reader, self.crop = reader, crop
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, lane: int, position: Position | None) -> Iterator[tuple[Tensor, Position]]:
        """Yield a lane's batches without end, each with the position behind it."""
        state = position or {"cursor": [0, 0], "batches": 0}
        turn, offset = state["cursor"]
        clips = self.reader.read_lane(lane, (turn, offset))
        batches = int(state["batches"])
        while True:
            rng = Random(f"{self.seed}-{lane}-{batches}")
            crops = []
            for _ in range(self.batch_size):
                crop, cursor = self._draw_crop(clips, rng)
                crops.append(crop)
            batches += 1
            yield torch.stack(crops), {"cursor": list(cursor), "batches": batches}

    def _draw_crop(
        self, clips: Iterator[tuple[Tensor, Cursor]], rng: Random
    ) -> tuple[Float[Tensor, " T"], Cursor]:
        """Return a crop and the cursor behind its last clip."""
        waves: list[Tensor] = []
        length = start = 0
        num_media = self.reader.num_media()
        for wave, cursor in clips:
            start = start if waves else rng.randrange(len(wave))
            waves.append(wave)
            length += len(wave)
            if length - start >= self.crop:
                return torch.cat(waves)[start : start + self.crop], cursor
            if len(waves) >= num_media and length < self.crop:
                break
        raise OmniError(
            f"all speech-{self.reader.split} clips in '{self.reader.data / 'media'}' are together "
            f"shorter than one crop of {self.crop} samples; prepare more speech or shorten crop_s"
        )


class SpeechData(ResumableData):
    """Training crops and validation crops, read as they are needed.

    Args:
        data: Folder or URL written by `make prep-data`.
        sample_rate: Sample rate in Hz, to which clips are resampled.
        crop_s: Length of a crop in seconds.
        batch_size: Crops per batch.
        val_batches: Number of batches of validation crops, the same each time.
        seed: Seed of all draws.
        lanes: Lanes of the training stream, a multiple of processes times workers.
        num_workers: Worker processes that load the training batches of each process; 0 for none.
    """

    def __init__(
        self,
        data: str,
        sample_rate: int,
        crop_s: float,
        batch_size: int,
        val_batches: int,
        seed: int,
        lanes: int = LANES,
        num_workers: int = 0,
    ) -> None:
        super().__init__(lanes, num_workers)
        check_within("data.sample_rate", sample_rate, MIN_RATE)
        check_within("data.crop_s", crop_s, MIN_SECONDS)
        check_within("data.batch_size", batch_size, 1)
        check_within("data.val_batches", val_batches, 1)
        check_within("data.seed", seed, 0)
        self.data, self.sample_rate = parse_recorded_location(data, "data.data"), sample_rate
        self.crop = round(crop_s * sample_rate)
        self.batch_size, self.val_batches, self.seed = batch_size, val_batches, seed

    def setup(self, stage: str) -> None:
        """Check that there are shards, and read the validation crops."""
        read_manifest(self.data)
        check_shards(self.data / "media")
        list_shards(self.data / "media", "speech", "train")
        crops = self._make_crops("val", lanes=1)(0, None)
        self.val_crops = [crop for crop, _ in islice(crops, self.val_batches)]

    def stream_identity(self) -> dict[str, Any]:
        """Return what the positions of lanes depend on."""
        return {**super().stream_identity(), "data": manifest_digest(self.data), "seed": self.seed}

    def train_dataloader(self) -> LaneLoader:
        """Return endless random crops of the training clips, Float[B T]."""
        return self.make_lane_loader(self._make_crops("train", lanes=self.lanes))

    def samples_in_batch(self, batch: Tensor) -> Counts:
        """Return 1: crops go over the ends of clips, so that batches are counted and not clips."""
        return {"batch": 1}

    def samples_up_to(self, lane: int, position: Position) -> Counts:
        """Return the number of a lane's batches up to a position."""
        return {"batch": int(position["batches"])}

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return a fixed list of crops, the same on each process."""
        return DataLoader(_FixedBatches(self.val_crops), batch_size=None)

    def decode_recording(self, content: bytes, name: str) -> Float[Tensor, " S"]:
        """Decode a recording to this data's sample rate."""
        return torch.from_numpy(read_audio(content, sample_rate=self.sample_rate, name=name))

    def _make_crops(self, split: str, *, lanes: int) -> SpeechCrops:
        reader = MediaReader(
            self.data, "speech", split, lanes=lanes, seed=self.seed, decode=self.decode_recording
        )
        return SpeechCrops(reader, crop=self.crop, batch_size=self.batch_size, seed=self.seed)


class _FixedBatches(IterableDataset[Tensor]):
    """A list of batches that is not dealt to processes."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches."""
        return iter(self.batches)
