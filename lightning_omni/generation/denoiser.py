"""The backbone as a denoiser: with a cache of prompt states, with classifier-free guidance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from typing import Required, TypedDict, Unpack

import torch
from torch import Tensor

from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.nn.kv_cache import KVCache
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.canvas import Denoiser, LogitsAt, to_device
from lightning_omni.types import ContinuousFeatures


class CachedBackbone:
    """Run the backbone over the same packed tokens again and again.

    Which tokens run is decided on the host, which does not wait for the backbone's device.
    Segments without a masked position are left out: nothing in them can change any more.

    Args:
        backbone: the network.
        prompts: batches of prompts that run as one, one after another. Their responses are
            recomputed in every pass; with right-shifted logits also the tokens before them, which
            score them.
        mask_token_id: id of the mask.
        cache_interval: passes from one over all tokens to the next; in between only the recomputed
            tokens are computed. 1 is exact. With an isolated prompt all tokens are computed once,
            which is exact.
        dtype: format of matrix products.
    """

    def __init__(
        self,
        backbone: Transformer,
        *prompts: PackedPrompts,
        mask_token_id: int,
        cache_interval: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.backbone, self.dtype, self.mask_token_id = backbone, dtype, mask_token_id
        self.device = next(backbone.parameters()).device
        self.position_ids = to_device(torch.cat([p.position_ids for p in prompts]), self.device)
        continuous = _concatenate_prompt_features(prompts)
        self.continuous = continuous and continuous.to(self.device, non_blocking=True)
        lengths = tuple(length for p in prompts for length in p.layout.lengths)
        starts = accumulate((len(p.ids) for p in prompts), initial=0)
        recomputed = torch.cat(
            [start + p.response_positions.cpu() for start, p in zip(starts, prompts, strict=False)]
        )
        self.cache_interval = sys.maxsize if backbone.isolate_prompt else cache_interval
        self.lengths = torch.tensor(lengths)
        self.segment = torch.arange(len(lengths)).repeat_interleave(self.lengths)
        self.is_recomputed = torch.zeros_like(self.segment, dtype=torch.bool)
        self.is_recomputed[recomputed] = True
        if backbone.right_shift_logits:
            previous = SegmentLayout.from_lengths(lengths, device="cpu").previous_positions(
                len(self.segment)
            )
            self.is_recomputed[previous[recomputed]] = True
        self.is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        self.cache: KVCache | None = None
        self.passes = 0

    def final_states(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute final states at `positions`.

        Args:
            ids: all tokens, on the host, Int[T].
            positions: recomputed positions, ascending, on the host, Int[R].

        Returns:
            States, Float[R D], on the device; and on the host for each token its row among them (R
            if it has none), Int[T].
        """
        ids, positions = ids.cpu(), positions.cpu()
        is_active = torch.zeros_like(self.lengths, dtype=torch.bool)
        is_active[self.segment[self.is_recomputed & (ids == self.mask_token_id)]] = True
        has_new = bool((is_active & ~self.is_active).any())
        is_full = self.passes % self.cache_interval == 0 or has_new
        self.passes += 1
        if is_full:
            self._start_cache(is_active)
        elif not torch.equal(is_active, self.is_active):
            self._narrow_cache(is_active)
        is_partial = self.cache is not None and self.cache.is_initialized
        tokens, layout = (
            (self.recomputed, self.recomputed_layout) if is_partial else (self.all, self.layout)
        )
        there = to_device(tokens, self.device)
        with self._autocast():
            hidden = self.backbone(
                *(
                    to_device(ids[tokens], self.device),
                    self.position_ids[there],
                    layout,
                    self.cache,
                ),
                positions=to_device(torch.searchsorted(tokens, positions), self.device),
                continuous=self.continuous and self.continuous.at_positions(there),
            )
        row = torch.full_like(self.segment, len(positions))
        row[positions] = torch.arange(len(positions))
        return hidden, row

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return the logits of `ids`, in float32."""
        with self._autocast():
            return self.backbone.logits(hidden, ids).float()

    def _start_cache(self, is_active: Tensor) -> None:
        """Compute all tokens of these segments in the next pass."""
        if self.cache is None and torch.equal(is_active, self.is_active):
            return
        self.is_active = is_active
        self.all = is_active[self.segment].nonzero().squeeze(1)
        is_recomputed = self.is_recomputed[self.all]
        self.layout = self.backbone.segment_layout(
            self.lengths[is_active].tolist(), to_device(is_recomputed, self.device)
        )
        if self.cache_interval > 1:
            recomputed = is_recomputed.nonzero().squeeze(1)
            self.cache = KVCache(
                to_device(recomputed, self.device),
                self.layout,
                num_layers=len(self.backbone.blocks),
            )
            self.recomputed, self.recomputed_layout = (
                self.all[recomputed],
                self.cache.recomputed_layout,
            )

    def _narrow_cache(self, is_active: Tensor) -> None:
        """Compute the recomputed tokens of fewer segments than the cache holds."""
        assert self.cache is not None  # noqa: S101 - else every pass is a full one
        self.is_active = is_active
        recomputed = (self.is_recomputed & is_active[self.segment])[self.all].nonzero().squeeze(1)
        self.cache.set_recomputed(to_device(recomputed, self.device))
        self.recomputed, self.recomputed_layout = self.all[recomputed], self.cache.recomputed_layout

    def _autocast(self) -> torch.autocast:
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.dtype is torch.bfloat16)


class CacheOptions(TypedDict, total=False):
    """Options of `CachedBackbone`."""

    mask_token_id: Required[int]
    cache_interval: int
    dtype: torch.dtype


def conditional_denoiser(
    backbone: Transformer, prompts: PackedPrompts, **options: Unpack[CacheOptions]
) -> Denoiser:
    """Return a denoiser of one forward pass per step; arguments are those of `CachedBackbone`."""
    cached = CachedBackbone(backbone, prompts, **options)

    def denoise(ids: Tensor, positions: Tensor) -> LogitsAt:
        hidden, row = cached.final_states(ids, positions)
        return lambda at, allowed: cached.logits(hidden[to_device(row[at], cached.device)], allowed)

    return denoise


def guided_denoiser(
    backbone: Transformer,
    prompts: PackedPrompts,
    unconditional: PackedPrompts,
    scale: float,
    **options: Unpack[CacheOptions],
) -> Denoiser:
    """Return a denoiser with classifier-free guidance.

    Its logits are conditional + scale * (conditional - unconditional).

    Both batches run as one. An unconditional prompt is shorter, so its response lies elsewhere;
    positions are matched by their index within the responses.

    Args:
        backbone: network trained with condition dropout.
        prompts: prompts with the condition.
        unconditional: the same prompts without it; their responses have the same lengths.
        scale: guidance scale; 0 is no guidance.
        options: see `CachedBackbone`.

    Source: arXiv:2207.12598, equation 6.
    """
    own, bare_own = (p.response_positions.cpu() for p in (prompts, unconditional))
    elsewhere = len(prompts.ids) + bare_own
    cached = CachedBackbone(backbone, prompts, unconditional, **options)
    index = torch.full((len(prompts.ids),), -1)
    index[own] = torch.arange(len(elsewhere))

    def denoise(ids: Tensor, positions: Tensor) -> LogitsAt:
        ids, positions = ids.cpu(), positions.cpu()
        bare = unconditional.ids.cpu().clone()
        bare[bare_own] = ids[own]
        positions_of_both = torch.cat([positions, elsewhere[index[positions]]])
        hidden, row = cached.final_states(torch.cat([ids, bare]), positions_of_both)

        def logits_at(at: Tensor, allowed: Tensor) -> Tensor:
            here, there = row[at], row[elsewhere[index[at]]]
            with_condition, without = (
                cached.logits(hidden[to_device(rows, cached.device)], allowed)
                for rows in (here, there)
            )
            return with_condition + scale * (with_condition - without)

        return logits_at

    return denoise


def _concatenate_prompt_features(prompts: Sequence[PackedPrompts]) -> ContinuousFeatures | None:
    """Return the features of prompts that lie one after another."""
    starts = accumulate((len(p.ids) for p in prompts), initial=0)
    found = [
        (start, p.continuous)
        for start, p in zip(starts, prompts, strict=False)
        if p.continuous is not None
    ]
    if not found:
        return None
    positions = torch.cat([start + continuous.positions for start, continuous in found])
    return ContinuousFeatures(
        positions, torch.cat([continuous.features for _, continuous in found])
    )


def cache_first_pass(denoise: Denoiser) -> Denoiser:
    """Return a denoiser whose second pass is the first one's if the ids are still the same."""
    first: list[tuple[Tensor, LogitsAt]] = []
    passes = 0

    def denoise_or_recall(ids: Tensor, positions: Tensor) -> LogitsAt:
        nonlocal passes
        passes += 1
        if passes == 2 and torch.equal(first[0][0], ids):
            return first.pop()[1]
        logits_at = denoise(ids, positions)
        if passes == 1:
            first.append((ids, logits_at))
        return logits_at

    return denoise_or_recall
