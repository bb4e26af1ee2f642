"""Masks of attention within segments: causal, and on the way from causal to bidirectional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMask:
    """Which tokens of a segment attend to which, by their index in the segment.

    One dense mask serves all segments, so it suits evaluation and the first steps of a conversion,
    not long training: kernels for packed segments do not take it.

    Attributes:
        visible: Whether the token of index i attends to the one of index j, Bool[L L].
        index: Index of each token of a layout in its segment, Int[T]; None if the layout holds all
            tokens of its segments.
    """

    visible: Tensor
    index: Tensor | None = None

    def at(self, index: Int[Tensor, " R"]) -> AttentionMask:
        """Return the mask of queries at these indices in their segments."""
        return replace(self, index=index)

    def of_segments(
        self, lengths: Sequence[int], key_lengths: Sequence[int]
    ) -> Iterator[Bool[Tensor, "R K"]]:
        """Yield the mask of each segment, R queries by K keys.

        Args:
            lengths: Number of queries of each segment.
            key_lengths: Number of its tokens, all of which serve as keys.
        """
        start = 0
        for count, keys in zip(lengths, key_lengths, strict=True):
            if self.index is None:
                yield self.visible[:count, :keys]
            else:
                yield self.visible[self.index[start : start + count], :keys]
            start += count


def causal_mask(length: int, device: torch.device | str) -> AttentionMask:
    """Return the mask with which a token attends to itself and to those before it."""
    return AttentionMask(torch.ones(length, length, dtype=torch.bool, device=device).tril())


def annealed_mask(
    length: int, share: float, generator: torch.Generator, device: torch.device | str
) -> AttentionMask:
    """Return the causal mask in which a share of the pairs above the diagonal is visible, too.

    Args:
        length: Number of tokens of the longest segment.
        share: Probability that a token attends to one behind it, in [0, 1].
        generator: Source of randomness, on the CPU.
        device: Device of the mask.

    Source: attention mask annealing of DiffuGPT and DiffuLLaMA, arXiv:2410.17891, section 3.3.
    """
    drawn = torch.rand(length, length, generator=generator) < share
    causal = causal_mask(length, device)
    return replace(causal, visible=causal.visible | drawn.to(device, non_blocking=True))
