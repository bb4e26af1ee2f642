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

    Segments without an open position are left out: what they hold can no longer change anything.

    Args:
        backbone: The network.
        position_ids: Places of all tokens, Int[T 3].
        lengths: Of the segments.
        live: Places of the tokens that change between runs, ascending.
        mask_token_id: Id of an open position.
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
        mask_token_id: int,
        refresh_every: int,
        dtype: torch.dtype,
    ) -> None:
        self.backbone, self.position_ids, self.dtype = backbone, position_ids, dtype
        self.mask_token_id = mask_token_id
        self.refresh_every = sys.maxsize if backbone.isolate_prompt else refresh_every
        self.lengths = torch.tensor(lengths, device=live.device)
        index = torch.arange(len(lengths), device=live.device)
        self.segment = index.repeat_interleave(self.lengths)
        self.is_live = torch.zeros_like(self.segment, dtype=torch.bool)
        self.is_live[live] = True
        self.is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        self.memory: Memory | None = None
        self.runs = 0

    def run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute final states; the second value maps places of tokens to their rows."""
        is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        is_active[self.segment[self.is_live & (ids == self.mask_token_id)]] = True
        is_full = self.runs % self.refresh_every == 0
        self.runs += 1
        if is_full:
            self._begin(is_active)
        elif not torch.equal(is_active, self.is_active):
            self._narrow(is_active)
        is_partial = self.memory is not None and self.memory.is_filled
        places, layout = (self.live, self.live_layout) if is_partial else (self.all, self.layout)
        with self._format():
            hidden = self.backbone(ids[places], self.position_ids[places], layout, self.memory)
        row = torch.full_like(self.segment, -1)
        row[places] = torch.arange(len(places), device=row.device)
        return hidden, row

    def _begin(self, is_active: Tensor) -> None:
        """Compute all tokens of these segments in the next run."""
        if self.memory is None and torch.equal(is_active, self.is_active):
            return
        self.is_active = is_active
        self.all = is_active[self.segment].nonzero().squeeze(1)
        is_live = self.is_live[self.all]
        self.layout = self.backbone.layout(self.lengths[is_active].tolist(), is_live)
        if self.refresh_every > 1:
            live = is_live.nonzero().squeeze(1)
            self.memory = Memory(live, self.layout, num_layers=len(self.backbone.blocks))
            self.live, self.live_layout = self.all[live], self.memory.live_layout

    def _narrow(self, is_active: Tensor) -> None:
        """Compute the live tokens of fewer segments than are remembered."""
        assert self.memory is not None  # noqa: S101 - else every run is a full one
        self.is_active = is_active
        live = (self.is_live & is_active[self.segment])[self.all].nonzero().squeeze(1)
        self.memory.narrow(live)
        self.live, self.live_layout = self.all[live], self.memory.live_layout

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
    mask_token_id: int,
    refresh_every: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """One forward pass per step; logits only where and over what they are asked for.

    Args:
        backbone: The network.
        prompts: What is to be filled.
        mask_token_id: See `Runner`.
        refresh_every: See `Runner`.
        dtype: See `Runner`.
    """
    runner = Runner(
        backbone,
        prompts.position_ids,
        prompts.layout.lengths,
        live=prompts.hole_positions,
        mask_token_id=mask_token_id,
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
    mask_token_id: int,
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
        mask_token_id: See `Runner`.
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
        mask_token_id=mask_token_id,
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
