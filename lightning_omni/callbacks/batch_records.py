"""Write down what each micro-batch was, how it was masked and what its loss is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_omni.data.lanes import LaneLoader
from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.tokenizer_training import TokenizerTraining
from lightning_omni.types import Batch


class BatchRecords(L.Callback):
    """Writes a record of each batch at the end.

    Args:
        folder: Folder that gets `rank<n>.json`: by number of the batch its loss, and checksums of
            its tokens and masks or of its media.
        joined: Batches of media that a tokenizer takes in one step, as it does not accumulate
            gradients. Each has the loss of the step.

    Raises:
        OmniError: If what is trained is neither the joint model nor a tokenizer.
    """

    def __init__(self, folder: str, joined: int = 1) -> None:
        self.folder, self.joined = Path(folder), joined
        self.records: dict[int, dict[str, Any]] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be compared; join the batches of media."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        is_joint = isinstance(pl_module, MaskedDiffusionModule) and isinstance(data, OmniData)
        if is_joint:
            return
        if not isinstance(pl_module, TokenizerTraining) or not isinstance(data, ResumableData):
            raise OmniError(
                f"layouts of {type(pl_module).__name__} cannot be compared, wanted a recipe of the "
                "joint model or of a tokenizer; leave --verify_topology out"
            )
        if self.joined > 1:
            separate = data.train_dataloader
            data.train_dataloader = lambda: _Joined(separate(), self.joined)  # type: ignore[method-assign]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch | Tensor,
        batch_idx: int,
    ) -> None:
        """Keep the record of a batch."""
        number = batch_idx * trainer.world_size + trainer.global_rank
        if isinstance(batch, Tensor):
            logged = trainer.callback_metrics.items()
            loss = float(sum(value for name, value in logged if name.startswith("train_loss/")))
            for i, media in enumerate(batch.chunk(self.joined)):
                record = {"loss": loss, "media": _tensor_checksum(media)}
                self.records[number * self.joined + i] = record
            return
        assert isinstance(pl_module, MaskedDiffusionModule)  # noqa: S101
        noisy = pl_module.forward_process(batch, pl_module.vocab, seed=pl_module.noise_seed)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        tokens, masks = _tensor_checksum(batch.ids), _tensor_checksum(noisy.x_t, noisy.positions)
        self.records[number] = {"loss": loss, "tokens": tokens, "masks": masks}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the records of this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{trainer.global_rank}.json"
        path.write_text(json.dumps(self.records), encoding="utf-8")


class _Joined:
    """Media of several batches of a loader as one batch."""

    def __init__(self, loader: LaneLoader, count: int) -> None:
        self.loader, self.count = loader, count

    def __iter__(self) -> Iterator[Tensor]:
        batches = iter(self.loader)
        while True:
            yield torch.cat([next(batches).batch for _ in range(self.count)])


def read_records(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the records of all processes by number of the batch, ascending."""
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("rank*.json"):
        found |= {
            int(number): record for number, record in json.loads(path.read_text("utf-8")).items()
        }
    return dict(sorted(found.items()))


def _tensor_checksum(*values: Tensor) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
