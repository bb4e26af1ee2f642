"""The backbone as a denoiser, alone or with classifier-free guidance, with or without memory."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from lightning_omni.inference.layout import PackedPrompts
from lightning_omni.nn.memory import Memory
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import Denoiser, LogitsAt


class Runner:
    """Runs the backbone over a packed run of tokens again and again.

    Args:
        backbone: The network.
        position_ids: Places of all tokens, Int[T 3].
        lengths: Of the segments.
        live: Places of the tokens that change between runs, ascending.
        refresh_every: Every so many runs all tokens are computed, in between only the live ones; 1
            is exact. A network with an isolated prompt computes all once, and is exact.
        dtype: Format of matrix products.
    """

    def __init__(
        self,
        backbone: Transformer,
        position_ids: Tensor,
        lengths: tuple[int, ...],
        *,
        live: Tensor,
        refresh_every: int,
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self.backbone, self.position_ids = backbone, position_ids
        self.refresh_every = sys.maxsize if backbone.isolate_prompt else refresh_every
        self.row_of_all = torch.arange(len(position_ids), device=live.device)
        self.row_of_live = torch.full_like(self.row_of_all, -1)
        self.row_of_live[live] = torch.arange(len(live), device=live.device)
        self.layout = backbone.layout(lengths, self.row_of_live >= 0)
        self.runs = 0
        self.memory: Memory | None = None
        if self.refresh_every > 1:
            self.memory = Memory(live, self.layout, num_layers=len(backbone.blocks))

    def run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute final states; the second value maps places of live tokens to their rows."""
        is_full = self.runs % self.refresh_every == 0
        self.runs += 1
        memory = self.memory
        if memory is None or is_full:
            if memory is not None:
                memory.forget()
            with self._format():
                hidden = self.backbone(ids, self.position_ids, self.layout, memory)
            return hidden, self.row_of_all
        live = memory.live
        with self._format():
            hidden = self.backbone(ids[live], self.position_ids[live], memory.live_layout, memory)
        return hidden, self.row_of_live

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Scores of `ids`, in float32."""
        with self._format():
            return self.backbone.logits(hidden, ids).float()

    def _format(self) -> torch.autocast:
        kind = self.position_ids.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.dtype is torch.bfloat16)


def conditional(
    backbone: Transformer,
    prompts: PackedPrompts,
    *,
    refresh_every: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """One forward pass per step; logits only where and over what they are asked for.

    Args:
        backbone: The network.
        prompts: What is to be filled.
        refresh_every: See `Runner`.
        dtype: See `Runner`.
    """
    runner = Runner(
        backbone,
        prompts.position_ids,
        prompts.layout.lengths,
        live=prompts.hole_positions,
        refresh_every=refresh_every,
        dtype=dtype,
    )

    def denoise(ids: Tensor) -> LogitsAt:
        hidden, row = runner.run(ids)
        return lambda where, allowed: runner.logits(hidden[row[where]], allowed)

    return denoise


def guided(
    backbone: Transformer,
    prompts: PackedPrompts,
    bare: PackedPrompts,
    *,
    scale: float,
    refresh_every: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """Classifier-free guidance: (1 + scale) * conditional - scale * unconditional logits.

    Both prompts run as one batch. The unconditional one is shorter, so its answer lies elsewhere;
    positions are matched hole by hole, never by absolute index.

    Args:
        backbone: Trained with condition dropout.
        prompts: With the condition.
        bare: The same prompts without it; their holes are equally long.
        scale: 0 is no guidance.
        refresh_every: See `Runner`.
        dtype: See `Runner`.

    Source: arXiv:2207.12598, equation 6.
    """
    size, device = len(prompts.ids), prompts.ids.device
    runner = Runner(
        backbone,
        torch.cat((prompts.position_ids, bare.position_ids)),
        (*prompts.layout.lengths, *bare.layout.lengths),
        live=torch.cat((prompts.hole_positions, size + bare.hole_positions)),
        refresh_every=refresh_every,
        dtype=dtype,
    )
    counterpart = torch.full((size,), -1, device=device)
    counterpart[prompts.hole_positions] = bare.hole_positions

    def denoise(ids: Tensor) -> LogitsAt:
        bare_ids = bare.ids.clone()
        bare_ids[bare.hole_positions] = ids[prompts.hole_positions]
        hidden, row = runner.run(torch.cat((ids, bare_ids)))

        def logits_at(where: Tensor, allowed: Tensor) -> Tensor:
            with_condition = runner.logits(hidden[row[where]], allowed)
            without = runner.logits(hidden[row[size + counterpart[where]]], allowed)
            return (1 + scale) * with_condition - scale * without

        return logits_at

    return denoise
