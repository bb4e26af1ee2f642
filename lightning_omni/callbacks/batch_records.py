"""Write down what each micro-batch was, how it was masked and what its loss is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.types import Batch


class BatchRecords(L.Callback):
    """Writes a record of each batch at the end.

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
        """Refuse what cannot be compared."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, MaskedDiffusionModule) or not isinstance(data, OmniData):
            raise OmniError(
                f"layouts of {type(pl_module).__name__} cannot be compared, wanted a recipe of the "
                "joint model; leave --verify_topology out"
            )

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
