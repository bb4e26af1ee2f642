"""Next-token prediction as a forward process: nothing is masked, every answer token is scored."""

from __future__ import annotations

import torch

from lightning_omni.diffusion.forward_process import loss_positions
from lightning_omni.types import Batch, NoisyBatch


def next_token_batch(batch: Batch, *, multiple: int = 1) -> NoisyBatch:
    """Return a batch of which every answer token is scored, and none is masked.

    A causal network with right-shifted logits predicts each from the tokens before it, so the loss
    is the negative log-likelihood of the answers per token. Tail pads are not scored.

    Args:
        batch: Packed sequences.
        multiple: Multiple to which the positions with a loss are padded; see `NoisyBatch`.
    """
    positions, is_real, num_losses = loss_positions(
        batch.is_answer, multiple=multiple, at_most=batch.num_maskable
    )
    weight = is_real.float()
    ratio = torch.ones_like(weight)
    return NoisyBatch(batch.ids, positions, is_real, weight, ratio, weight, num_losses)
