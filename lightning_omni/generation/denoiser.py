"""The backbone as a denoiser, alone or with classifier-free guidance, with or without memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lightning_omni.generation.canvas_builder import PackedPrompts
from lightning_omni.nn.kv_cache import KVCache
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.canvas import Denoiser, LogitsAt
from lightning_omni.types import Continuous


class Runner:
    """Runs the backbone over a packed run of tokens again and again.

    Segments without an open position are left out: what they hold can no longer change anything.

    Args:
        backbone: The network.
        position_ids: Places of all tokens, Int[T 3].
        lengths: Of the segments.
        live: Places of the tokens that change between runs, ascending. Of a shifted network the
            tokens before them are brought up to date too, as those score them.
        mask_token_id: Id of an open position.
        refresh_every: Every so many runs all tokens are computed, in between only the live ones; 1
            is exact. A network with an isolated prompt computes all once, and is exact.
        dtype: Format of matrix products.
        continuous: Features in the place of tokens, none of which is live.
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
        continuous: Continuous | None,
    ) -> None:
        self.backbone, self.position_ids, self.dtype = backbone, position_ids, dtype
        self.continuous = continuous
        self.mask_token_id = mask_token_id
        self.refresh_every = sys.maxsize if backbone.isolate_prompt else refresh_every
        self.lengths = torch.tensor(lengths, device=live.device)
        index = torch.arange(len(lengths), device=live.device)
        self.segment = index.repeat_interleave(self.lengths)
        self.is_live = torch.zeros_like(self.segment, dtype=torch.bool)
        self.is_live[live] = True
        if backbone.right_shift_logits:
            self.is_live[
                SegmentLayout.from_lengths(lengths, device=live.device).previous_positions()[live]
            ] = True
        self.is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        self.memory: KVCache | None = None
        self.runs = 0

    def run(self, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the final states of live tokens; the second value maps their places to rows."""
        is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        is_active[self.segment[self.is_live & (ids == self.mask_token_id)]] = True
        is_full = self.runs % self.refresh_every == 0 or bool((is_active & ~self.is_active).any())
        self.runs += 1
        if is_full:
            self._begin(is_active)
        elif not torch.equal(is_active, self.is_active):
            self._narrow(is_active)
        is_partial = self.memory is not None and self.memory.is_initialized
        places, layout = (self.live, self.live_layout) if is_partial else (self.all, self.layout)
        with self._format():
            hidden = self.backbone(
                *(ids[places], self.position_ids[places], layout, self.memory),
                positions=torch.searchsorted(places, wanted),
                continuous=self.continuous and self.continuous.among(places),
            )
        row = torch.full_like(self.segment, len(wanted))  # what is not wanted has no row
        row[wanted] = torch.arange(len(wanted), device=row.device)
        return hidden, row

    def _begin(self, is_active: Tensor) -> None:
        """Compute all tokens of these segments in the next run."""
        if self.memory is None and torch.equal(is_active, self.is_active):
            return
        self.is_active = is_active
        self.all = is_active[self.segment].nonzero().squeeze(1)
        is_live = self.is_live[self.all]
        self.layout = self.backbone.segment_layout(self.lengths[is_active].tolist(), is_live)
        if self.refresh_every > 1:
            live = is_live.nonzero().squeeze(1)
            self.memory = KVCache(live, self.layout, num_layers=len(self.backbone.blocks))
            self.live, self.live_layout = self.all[live], self.memory.recomputed_layout

    def _narrow(self, is_active: Tensor) -> None:
        """Compute the live tokens of fewer segments than are remembered."""
        assert self.memory is not None  # noqa: S101 - else every run is a full one
        self.is_active = is_active
        live = (self.is_live & is_active[self.segment])[self.all].nonzero().squeeze(1)
        self.memory.set_recomputed(live)
        self.live, self.live_layout = self.all[live], self.memory.recomputed_layout

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
        continuous=prompts.continuous,
    )

    def denoise(ids: Tensor, places: Tensor) -> LogitsAt:
        hidden, row = runner.run(ids, places)
        return lambda where, allowed: runner.logits(hidden[row[where]], allowed)

    return denoise


@dataclass(frozen=True, slots=True)
class Guide:
    """Prompts without something, from which answers are led away.

    Attributes:
        bare: The same prompts without it; their holes are equally long.
        scale: Of the difference between the scores with and without it; 0 is no guidance.
        final_scale: Of the last masks: the scale falls or rises to it with the share of a sample's
            positions that are open; None keeps it.
    """

    bare: PackedPrompts
    scale: float
    final_scale: float | None = None

    def scales(self, open_share: Tensor) -> Tensor:
        """Scales at these shares of open positions."""
        end = self.scale if self.final_scale is None else self.final_scale
        return end + (self.scale - end) * open_share


def guided(
    backbone: Transformer,
    prompts: PackedPrompts,
    guides: Sequence[Guide],
    *,
    mask_token_id: int,
    refresh_every: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    """Classifier-free guidance: logits + sum over guides of scale * (logits - bare logits).

    All prompts run as one batch. A bare one is shorter, so its answer lies elsewhere; positions
    are matched hole by hole, never by absolute index.

    Args:
        backbone: Trained with condition dropout.
        prompts: With the condition.
        guides: One without the whole condition, or one for each modality of it.
        mask_token_id: See `Runner`.
        refresh_every: See `Runner`.
        dtype: See `Runner`.

    Source: arXiv:2207.12598, equation 6; a scale for each condition: InstructPix2Pix,
    arXiv:2211.09800, section 3.2; scales that change on the way: MAGNeT, arXiv:2401.04577.
    """
    every = [prompts, *(guide.bare for guide in guides)]
    starts = list(accumulate((len(p.ids) for p in every), initial=0))
    runner = Runner(
        backbone,
        torch.cat([p.position_ids for p in every]),
        tuple(length for p in every for length in p.layout.lengths),
        live=torch.cat([s + p.hole_positions for s, p in zip(starts[:-1], every, strict=True)]),
        mask_token_id=mask_token_id,
        refresh_every=refresh_every,
        dtype=dtype,
        continuous=_joined(every, starts),
    )
    hole_index = torch.full_like(prompts.ids, -1)
    hole_index[prompts.hole_positions] = torch.arange(len(prompts.hole_positions)).to(hole_index)
    lengths = torch.tensor(prompts.layout.lengths, device=prompts.ids.device)
    sample = torch.arange(len(lengths)).to(lengths).repeat_interleave(lengths)

    def open_share(ids: Tensor) -> Tensor:
        """Of each sample, the open share of what was open at first, Float[S]."""
        in_hole = hole_index >= 0
        is_open, was_open = (
            torch.bincount(sample[in_hole & (x == mask_token_id)], minlength=len(lengths))
            for x in (ids, prompts.ids)
        )
        return is_open / was_open.clamp_min(1)

    def denoise(ids: Tensor, places: Tensor) -> LogitsAt:
        rows, wanted = [ids], [places]
        for start, guide in zip(starts[1:-1], guides, strict=True):
            rows.append(guide.bare.ids.clone())
            rows[-1][guide.bare.hole_positions] = ids[prompts.hole_positions]
            wanted.append(start + guide.bare.hole_positions[hole_index[places]])
        hidden, row = runner.run(torch.cat(rows), torch.cat(wanted))
        share = open_share(ids)

        def logits_at(where: Tensor, allowed: Tensor) -> Tensor:
            with_condition = runner.logits(hidden[row[where]], allowed)
            out = with_condition
            for start, guide in zip(starts[1:-1], guides, strict=True):
                places = start + guide.bare.hole_positions[hole_index[where]]
                without = runner.logits(hidden[row[places]], allowed)
                scale = guide.scales(share[sample[where]])[:, None]
                out = out + scale * (with_condition - without)
            return out

        return logits_at

    return denoise


def _joined(every: Sequence[PackedPrompts], starts: Sequence[int]) -> Continuous | None:
    """Features of prompts that lie one behind another."""
    heard = [
        (start, p.continuous)
        for start, p in zip(starts, every, strict=False)
        if p.continuous is not None
    ]
    if not heard:
        return None
    places = torch.cat([start + continuous.places for start, continuous in heard])
    return Continuous(places, torch.cat([continuous.features for _, continuous in heard]))
