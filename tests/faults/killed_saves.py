"""Runs of a few steps in processes of their own, killed at one file operation of a save."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import warmed  # noqa: F401
from lightning.pytorch.callbacks import ModelCheckpoint
from several_processes import free_port
from torch import nn

from lightning_omni.callbacks.ema import EMA
from lightning_omni.callbacks.resume import verify_checkpoints
from lightning_omni.modules.sharding import ShardedStrategy, shard_parts

BEFORE, HALF, AFTER = "before", "half-way", "after"
STEPS, EVERY = 6, 2
TRACE = "trace.jsonl"
_NAMES = ("open", "write", "fsync", "replace", "rename", "unlink", "remove", "rmdir", "mkdir")


class FileOperations:
    """Counts operations on files below a folder while armed, and dies at one of them.

    Args:
        folder: Folder whose files are watched.
        at: Number of the operation, from 0; -1 for none.
        when: Whether to die before, half-way (of a write) or after it.
    """

    def __init__(self, folder: Path, at: int = -1, when: str = BEFORE) -> None:
        self.folder, self.at, self.when = str(folder), at, when
        self.count, self.writes, self.is_armed = 0, [], False
        self._descriptors: set[int] = set()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Watch from here on."""
        for name in _NAMES:
            setattr(os, name, self._watched(name, getattr(os, name)))
        opened = io.open

        def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not (set(mode) & set("wxa+") and self._is_ours(file)):
                return opened(file, mode, *args, **kwargs)
            raw = self.perform(
                "open", lambda: _WatchedFile(file, mode.replace("b", ""), self), None
            )
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered)

        io.open = builtins.open = open_file

    def perform(self, name: str, do: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        """Do an operation, unless this is where the process dies."""
        if not self.is_armed:
            return do()
        with self._lock:  # an asynchronous save has threads
            number, self.count = self.count, self.count + 1
            if half is not None:
                self.writes.append(number)
        if number != self.at:
            return do()
        try:
            if self.when == HALF and half is not None:
                half()
            elif self.when == AFTER:
                do()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    def _is_ours(self, file: Any) -> bool:
        if isinstance(file, int):
            return file in self._descriptors
        return os.path.abspath(os.fspath(file)).startswith(self.folder)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(first: Any, *args: Any, **kwargs: Any) -> Any:
            is_ours = kwargs.get("dir_fd") is not None or self._is_ours(first)
            if not is_ours:
                return call(first, *args, **kwargs)

            def do() -> Any:
                found = call(first, *args, **kwargs)
                if name == "open":
                    self._descriptors.add(found)
                return found

            def write_half() -> None:
                call(first, args[0][: len(args[0]) // 2])

            return self.perform(name, do, write_half if name == "write" else None)

        return watched


class _WatchedFile(io.FileIO):
    """An open file whose writes are operations."""

    def __init__(self, file: Any, mode: str, watch: FileOperations) -> None:
        super().__init__(file, mode)
        self._watch = watch
        watch._descriptors.add(self.fileno())

    def write(self, data: Any) -> Any:
        """Write, or die."""
        whole = super().write
        return self._watch.perform(
            "write", lambda: whole(data), lambda: whole(data[: len(data) // 2])
        )


class Tiny(L.LightningModule):
    """Two layers whose batches are a function of the step."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(956)
        self.inner, self.outer = nn.Linear(8, width), nn.Linear(width, 4)

    def configure_model(self) -> None:
        """Share out the layers where there is a mesh."""
        if self.device_mesh is not None:
            self.shard(self.device_mesh["data_parallel"])

    def shard(self, mesh: Any) -> None:
        """Share out the layers."""
        shard_parts(self, mesh)

    def train_dataloader(self) -> Any:
        """Return endless empty batches."""
        return torch.utils.data.DataLoader(range(1000))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return a loss of the step's inputs."""
        rng = torch.Generator().manual_seed(self.global_step)
        x = torch.randn(4, 8, generator=rng)
        return self.outer(torch.tanh(self.inner(x))).square().mean()

    def configure_optimizers(self) -> Any:
        """Return an optimizer and a schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Trace(L.Callback):
    """Notes each step with a digest of all weights and states; arms a watch in one save."""

    def __init__(self, path: Path, watch: FileOperations, armed_after: int) -> None:
        self.path, self.watch, self.armed_after = path, watch, armed_after

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Watch from the step before the save on, when the one before is complete."""
        if trainer.global_step == self.armed_after:
            finish_save(trainer)
            self.watch.is_armed = True

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Note the step; watch until the one behind the save, or its end if it is asynchronous."""
        digest = digest_of(trainer, module)
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(json.dumps([trainer.global_step, digest]) + "\n")
        if trainer.global_step == self.armed_after + EVERY + 1:
            finish_save(trainer)
            self.watch.is_armed = False

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Watch no longer."""
        self.watch.is_armed = False


def finish_save(trainer: L.Trainer) -> None:
    """Wait until an asynchronous save is complete."""
    if isinstance(trainer.strategy, ShardedStrategy):
        trainer.strategy.finish_checkpoint()


def digest_of(trainer: L.Trainer, module: L.LightningModule) -> str:
    """Return a digest of the weights, their average and the optimizer's states."""
    whole = hashlib.sha256()
    averaged = next(c.averaged for c in trainer.callbacks if isinstance(c, EMA))
    states = trainer.optimizers[0].state_dict()
    tensors = [*module.state_dict().values(), *averaged.values()]
    tensors += [states["state"][i][k] for i in sorted(states["state"]) for k in ("step", "exp_avg")]
    for tensor in tensors:
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        whole.update(full.detach().contiguous().numpy().tobytes())
    whole.update(repr(trainer.optimizers[0].param_groups[0]["lr"]).encode())
    return whole.hexdigest()[:16]


def fit(
    folder: Path,
    watch: FileOperations,
    *,
    kind: str,
    armed_after: int = EVERY,
    steps: int = STEPS,
    width: int = 16,
) -> None:
    """Train in this process, from the newest valid checkpoint on.

    Args:
        folder: The run's folder.
        watch: Watch of its files.
        kind: `file`, `folder` for a sharded run, or `later` for one that saves asynchronously.
        armed_after: Last step before the save that is watched.
        steps: Step at which the run ends.
        width: Width of the layers.
    """
    warnings.simplefilter("ignore")
    watch.install()
    strategy = "auto"
    if kind != "file":
        strategy = ShardedStrategy(save_asynchronously=kind == "later")
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=strategy,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            EMA(0.5),
            ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_train_steps=EVERY),
        ],
    )
    trainer.callbacks.insert(0, Trace(folder / TRACE, watch, armed_after))
    verify_checkpoints(trainer)
    trainer.fit(Tiny(width), ckpt_path="last")


def in_process(work: Callable[[], Any], log: Path, ranks: int = 1, port: int = 0) -> list[int]:
    """Do work in forked processes; the others are killed when one is. Returns their exit codes."""
    port = port or free_port()
    children = {}
    for rank in range(ranks):
        child = os.fork()
        if not child:
            os._exit(_in_child(work, log.with_name(f"{log.name}.{rank}"), rank, ranks, port))
        children[child] = rank
    codes = [0] * ranks
    left = set(children)
    while left:
        child, status = os.wait()
        if child not in left:
            continue
        left.discard(child)
        codes[children[child]] = os.waitstatus_to_exitcode(status)
        if codes[children[child]] and left:
            for other in left:
                os.kill(other, signal.SIGKILL)
    return codes


def _in_child(work: Callable[[], Any], log: Path, rank: int, ranks: int, port: int) -> int:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if ranks > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", RANK=str(rank))
        os.environ.update(WORLD_SIZE=str(ranks))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        work()
    except BaseException:  # noqa: BLE001  read by the parent
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def read_trace(folder: Path) -> list[tuple[int, str]]:
    """Return the steps of a run, in order, with their digests."""
    lines = (folder / TRACE).read_text().splitlines()
    return [(step, digest) for step, digest in map(json.loads, lines)]


def files_of(folder: Path) -> set[str]:
    """Return the names of all files of a run's checkpoints, hidden ones too."""
    found: Iterator[Path] = (folder / "checkpoints").rglob("*")
    return {path.relative_to(folder).as_posix() for path in found if path.is_file()}
