"""The backbone as a denoiser, alone or with classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.inference.layout import PackedPrompts
from lightning_omni.nn.attention import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import Denoiser, LogitsAt


def conditional(backbone: Transformer, prompts: PackedPrompts) -> Denoiser:
    """One forward pass per step; logits only where and over what they are asked for."""

    def denoise(ids: Tensor) -> LogitsAt:
        hidden = backbone(ids, prompts.position_ids, prompts.layout)
        return lambda where, allowed: backbone.logits(hidden[where], allowed)

    return denoise


def guided(
    backbone: Transformer, prompts: PackedPrompts, bare: PackedPrompts, *, scale: float
) -> Denoiser:
    """Classifier-free guidance: (1 + scale) * conditional - scale * unconditional logits.

    Both prompts run as one batch. The unconditional one is shorter, so its answer lies elsewhere;
    positions are matched hole by hole, never by absolute index.

    Args:
        backbone: Trained with condition dropout.
        prompts: With the condition.
        bare: The same prompts without it; their holes are equally long.
        scale: 0 is no guidance.

    Source: arXiv:2207.12598, equation 6.
    """
    size = len(prompts.ids)
    position_ids = torch.cat((prompts.position_ids, bare.position_ids))
    layout = SegmentLayout.of(
        (*prompts.layout.lengths, *bare.layout.lengths), device=prompts.ids.device
    )
    counterpart = torch.full((size,), -1, device=prompts.ids.device)
    counterpart[prompts.hole_positions] = bare.hole_positions

    def denoise(ids: Tensor) -> LogitsAt:
        bare_ids = bare.ids.clone()
        bare_ids[bare.hole_positions] = ids[prompts.hole_positions]
        hidden = backbone(torch.cat((ids, bare_ids)), position_ids, layout)

        def logits_at(where: Tensor, allowed: Tensor) -> Tensor:
            with_condition = backbone.logits(hidden[where], allowed)
            without = backbone.logits(hidden[size + counterpart[where]], allowed)
            return (1 + scale) * with_condition - scale * without

        return logits_at

    return denoise
