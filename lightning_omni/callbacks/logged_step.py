"""The step at which callbacks log: that of the losses, also where a critic has steps of its own."""

from __future__ import annotations

import lightning as L

from lightning_omni.modules.tokenizer_training import TokenizerTraining


def logged_step(trainer: L.Trainer) -> int:
    """Return the number of updates; Lightning's `global_step` counts those of each optimizer."""
    module = trainer.lightning_module
    return module.updates if isinstance(module, TokenizerTraining) else trainer.global_step
