"""Ranking within samples that lie one behind another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rank_within(
    sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Place of each among its sample's entries, and how many those are; `sample` is sorted."""
    count = torch.bincount(sample, minlength=num_samples)
    first = count.cumsum(0) - count
    return torch.arange(len(sample), device=sample.device) - first[sample], count[sample]


def surest_first(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Order of samples one behind another, each from its surest entry down, and the ranks."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[sample[order].argsort(stable=True)]
    return order, rank_within(sample[order], num_samples)[0]


def surest(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], quota: Int[Tensor, " S"]
) -> Int[Tensor, " K"]:
    """Entries to commit: each sample's `quota` largest confidences; `sample` is sorted.

    Ties fall as `torch.topk` lets them over a sample's own entries, so the outcome does not depend
    on what else is in the batch.
    """
    counts = torch.bincount(sample, minlength=len(quota))
    starts = (counts.cumsum(0) - counts).tolist()
    parts = torch.split(confidence, counts.tolist())
    return torch.cat(
        [
            start + part.topk(min(k, len(part))).indices
            for start, part, k in zip(starts, parts, quota.tolist(), strict=True)
        ]
    )
