"""Build the canvas of a batch: responses, prompts packed one after another, allowed tokens."""

from __future__ import annotations

import torch

from lightning_omni.generation.allowed_tokens import AllowedTokens
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.vocab import Vocab


def build_canvas(
    packed: PackedPrompts,
    spans: list[ResponseSpan],
    modality: str,
    allowed: AllowedTokens,
    *,
    num_steps: list[int],
    timestep_shift: float,
    stop_at_end: bool,
    vocab: Vocab,
) -> Canvas:
    """Build the canvas on which the responses of all samples, of one modality, are unmasked."""
    block = torch.full_like(packed.ids, -1)
    block[packed.response_positions] = 0
    allowed_set = torch.full_like(packed.ids, -1)
    indices = [index for span in spans for index in allowed.allowed_set_indices(modality, span)]
    allowed_set[packed.response_positions] = torch.tensor(
        indices,
    )
    lengths = torch.tensor(
        packed.layout.lengths,
    )
    return Canvas(
        ids=packed.ids,
        sample=torch.arange(
            len(spans),
        ).repeat_interleave(lengths),
        block=block,
        allowed_set=allowed_set,
        allowed=allowed.allowed,
        num_steps=torch.tensor(
            num_steps,
        )[:, None],
        mask_token_id=vocab.mask_token_id,
        timestep_shift=torch.full(
            (len(spans), 1),
            timestep_shift,
        ),
        ends=vocab.all_end_ids() if stop_at_end else (),
        pad_token_id=vocab.pad_token_id,
    )
