"""Write down what each start of a run computed with: device, number format and attention kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_omni.callbacks.dry_run import is_dry_run
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import read_json_object
from lightning_omni.nn.computation import AttentionWatch, computation_facts
from lightning_omni.whole_files import write_text

RECORD = "provenance.json"
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class RunRecord(L.Callback):
    """Writes `<default_root_dir>/provenance.json`: an entry for each start of the run.

    An entry holds what `provenance` returns, the steps, the layout of devices, `precision` of the
    first matrix product after the start, and all kernels of `attention`, at the end those of all
    processes; the recipe's setting may differ.

    Attributes:
        entry: entry of this start; empty before its first step, and on all processes but the first.
    """

    def __init__(self) -> None:
        self.entry: dict[str, Any] = {}
        self._dtype: torch.dtype | None = None
        self._handles: list[RemovableHandle] = []
        self._watch: AttentionWatch | None = None
        self._kernels: set[str] = set()
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the first matrix product."""
        self.entry, self._first_step = {}, trainer.global_step
        self._watch, self._kernels = AttentionWatch(pl_module), set()
        if trainer.is_global_zero:
            self._handles = [
                module.register_forward_hook(self._note_product_format)
                for module in pl_module.modules()
                if isinstance(module, _PRODUCTS)
            ]

    def _note_product_format(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Note the format of a product, once."""
        self._dtype = output.dtype
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the entry when there is news, for runs that are interrupted."""
        assert self._watch is not None  # noqa: S101
        has_news = not self.entry or self._watch.kernels != self._kernels
        if trainer.is_global_zero and has_news and not is_dry_run(trainer):
            self._kernels = set(self._watch.kernels)
            self._write_entry(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the entry with the step of the checkpoint, at which another start may go on."""
        if trainer.is_global_zero and self.entry:
            self._write_entry(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the entry with the last step."""
        assert self._watch is not None  # noqa: S101
        self._watch.close()
        self._kernels = _gather_kernels(self._watch.kernels, trainer.world_size)
        if trainer.is_global_zero and self.entry:
            self._write_entry(trainer, pl_module)

    def _write_entry(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        dtypes = [] if self._dtype is None else [self._dtype]
        self.entry = {
            "first_step": self._first_step,
            "last_step": trainer.global_step,
            "processes": trainer.world_size,
            "nodes": trainer.num_nodes,
            "strategy": type(trainer.strategy).__name__,
            **provenance(trainer.strategy.root_device),
            **computation_facts(module, dtypes, self._kernels),
            # the source tree may change meanwhile
            **({"commit": self.entry["commit"]} if self.entry else {}),
        }
        path = Path(trainer.default_root_dir) / RECORD
        earlier = [
            entry for entry in read_run_record(path) if entry["first_step"] < self._first_step
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"starts": [*earlier, self.entry]}, indent=1) + "\n")


def _gather_kernels(kernels: set[str], count: int) -> set[str]:
    parts: list[Any] = [kernels] * count
    if count > 1:
        dist.all_gather_object(parts, kernels)
    return set().union(*parts)


def read_run_record(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's record, none if there is no file.

    Raises:
        OmniError: If the file is damaged.
    """
    if not path.is_file():
        return []
    found = read_json_object(path, remedy="delete it; the next start writes another")
    return list(found.get("starts", []))


def record_of_trainer(trainer: L.Trainer) -> dict[str, Any]:
    """Return the entry of a trainer's start; empty if the run keeps no record."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunRecord):
            return callback.entry
    return {}


def describe_computation(starts: list[dict[str, Any]]) -> list[str]:
    """Return a line for each start: its steps, device, number format and attention kernel."""
    return [
        f"steps {one['first_step']} to {one['last_step']} on {one['processes']} x {one['device']}, "
        f"{one.get('precision', 'unknown format')}, attention by {one.get('attention', 'none')}"
        for one in starts
    ]
