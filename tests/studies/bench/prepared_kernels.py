"""How many kernels oneDNN, a CPU's library, prepares anew in each training step of a recipe.

`python tests/studies/bench/prepared_kernels.py --config recipes/demo/stage2.yaml` trains
100 steps and prints the count of the second half, where every kernel that comes again should be
found in the library's cache.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_omni.cli import build_cli

MISS = "create:cache_miss"
"""What the library calls the preparation of a kernel that it has not kept."""
_QUIET = {
    "logger": "false",
    "enable_checkpointing": "false",
    "enable_progress_bar": "false",
    "enable_model_summary": "false",
    "limit_val_batches": "0",
    "accelerator": "cpu",
}


class PreparedKernels(L.Callback):
    """Reads the library's messages after each step.

    Args:
        output: File that receives the output of the process.

    Attributes:
        by_step: Kernels that each step prepared, without the time it took.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.by_step: list[list[str]] = []
        self._offset = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out what was prepared before."""
        self._read()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step; what was prepared between steps counts towards it."""
        self.by_step.append([])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the kernels of the step."""
        self.by_step[-1] = self._read()

    def _read(self) -> list[str]:
        ctypes.CDLL(None).fflush(None)
        with self.output.open() as file:
            file.seek(self._offset)
            lines = file.read().splitlines()
            self._offset = file.tell()
        return [_describe_kernel(line) for line in lines if MISS in line]


def _describe_kernel(line: str) -> str:
    """Return kind of kernel, implementation, formats and sizes."""
    fields = line.split(",")
    start = next(i for i, field in enumerate(fields) if field == MISS)
    return ",".join(fields[start + 2 : -1])


@contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Write what the process prints, C libraries too, to a file."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)


def count_prepared_kernels(config: str, *, steps: int, overrides: list[str]) -> list[list[str]]:
    """Train by a recipe on a CPU, and return the kernels that each step prepared.

    Args:
        config: Recipe of a `fit`, whose data and earlier stages must exist.
        steps: Number of training steps.
        overrides: Further options, such as `--data.rows 4`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {**_QUIET, "max_steps": str(steps), "default_root_dir": folder}
        arguments = [f"--trainer.{name}={value}" for name, value in options.items()]
        cli = build_cli(["--config", config, *arguments, *overrides], run=False)
        callback = PreparedKernels(Path(folder) / "output.txt")
        cli.trainer.callbacks = [callback]  # type: ignore[attr-defined]
        level = torch.backends.mkldnn.VERBOSE_ON_CREATION
        verbose = torch.backends.mkldnn.verbose(level)  # type: ignore[no-untyped-call]
        with redirect_output(callback.output), verbose:
            cli.trainer.fit(cli.model, cli.datamodule)
    return callback.by_step


def describe_steps(by_step: list[list[str]]) -> str:
    """Return the shares of steps that prepared nothing, and the kernels prepared late."""
    half = len(by_step) // 2
    late = by_step[half:]
    without = sum(not kernels for kernels in late) / max(1, len(late))
    counts = [len(kernels) for kernels in late]
    lines = [
        f"steps {half + 1} to {len(by_step)}: {without:.0%} prepared no kernel, at most "
        f"{max(counts, default=0)}, {sum(counts) / max(1, len(counts)):.2f} a step; before "
        f"{sum(map(len, by_step[:half]))} in all"
    ]
    found = Counter(kernel for kernels in late for kernel in kernels)
    lines += [f"{count} x {kernel}" for kernel, count in found.most_common(20)]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="recipe of a fit")
    parser.add_argument("--steps", type=int, default=100)
    given, others = parser.parse_known_args()
    prepared = count_prepared_kernels(given.config, steps=given.steps, overrides=others)
    sys.stdout.write(describe_steps(prepared) + "\n")
