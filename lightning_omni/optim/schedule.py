"""Learning-rate schedule of the three modules: linear warm-up, then a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_omni.argument_checks import check_within


def check_schedule(
    warmup_steps: int, total_steps: int, final_lr_share: float, weight_decay: float
) -> None:
    """Refuse options of a recipe that make no schedule.

    Raises:
        OmniError: If an option is out of range; names the first.
    """
    check_within("model.warmup_steps", warmup_steps, 0)
    check_within("model.total_steps", total_steps, 1)
    check_within("model.final_lr_share", final_lr_share, 0, 1)
    check_within("model.weight_decay", weight_decay, 0)


def warmup_cosine(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_share: float
) -> LambdaLR:
    """Rise linearly for `warmup_steps`, then fall along a cosine to `final_share` of the rate."""

    def learning_rate_share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, learning_rate_share)
