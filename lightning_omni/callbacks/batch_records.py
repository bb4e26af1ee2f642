"""Write down what each micro-batch was, how it was masked and what its loss is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_omni.data.omni_data import OmniData, PackedMixture
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.types import Batch


class _Dealt(IterableDataset[Batch]):
    """Batches packed as by one process, of which each process takes every n-th."""

    def __init__(self, packed: PackedMixture, rank: int, world_size: int) -> None:
        self.packed, self.rank, self.world_size = packed, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.packed, self.rank, None, self.world_size)


class BatchRecords(L.Callback):
    """Deals the batches of one process to all, and writes a record of each at the end.

    Args:
        folder: Folder that gets `rank<n>.json`: by number of the batch its loss and checksums of
            its tokens and masks.

    Raises:
        OmniError: If what is trained is not the joint model.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.records: dict[int, dict[str, Any]] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have batches packed as by one process."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, MaskedDiffusionModule) or not isinstance(data, OmniData):
            raise OmniError(
                f"layouts of {type(pl_module).__name__} cannot be compared, wanted a recipe of the "
                "joint model; leave --verify_topology out"
            )
        make = data.train_dataloader

        def dealt() -> DataLoader[Batch]:
            packed = make().dataset
            assert isinstance(packed, PackedMixture)  # noqa: S101
            packed.rank, packed.world_size = 0, 1
            stream = _Dealt(packed, trainer.global_rank, trainer.world_size)
            return DataLoader(stream, batch_size=None)

        data.train_dataloader = dealt  # type: ignore[method-assign]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Keep the record of a batch."""
        assert isinstance(pl_module, MaskedDiffusionModule)  # noqa: S101
        noisy = pl_module.forward_process(batch, pl_module.vocab, seed=pl_module.noise_seed)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        number = batch_idx * trainer.world_size + trainer.global_rank
        tokens, masks = _checksum(batch.ids), _checksum(noisy.x_t, noisy.positions)
        self.records[number] = {"loss": loss, "tokens": tokens, "masks": masks}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the records of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{trainer.global_rank}.json"
        path.write_text(json.dumps(self.records))


def read_records(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the records of all processes by number of the batch, ascending."""
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("rank*.json"):
        found |= {int(number): record for number, record in json.loads(path.read_text()).items()}
    return dict(sorted(found.items()))


def _checksum(*values: Tensor) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
