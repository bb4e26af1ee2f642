"""Ranks within samples: who is first, and who is most confident."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rank_within_sample(
    sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Return each entry's index within its sample, and the sample's size; `sample` is sorted."""
    count = torch.bincount(sample, minlength=num_samples)
    first = count.cumsum(0) - count
    return torch.arange(len(sample), device=sample.device) - first[sample], count[sample]


def most_confident_first(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Return the order by sample and descending confidence, and each entry's rank in its sample."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[sample[order].argsort(stable=True)]
    return order, rank_within_sample(sample[order], num_samples)[0]


def most_confident(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], count: Int[Tensor, " S"]
) -> Int[Tensor, " K"]:
    """Return the index of each sample's `count` most confident entries; `sample` is sorted.

    Ties break as `torch.topk` breaks them within a sample's own entries, so the result does not
    depend on the rest of the batch.
    """
    sizes = torch.bincount(sample, minlength=len(count))
    starts = (sizes.cumsum(0) - sizes).tolist()
    parts = torch.split(confidence, sizes.tolist())
    return torch.cat(
        [
            start + part.topk(min(k, len(part))).indices
            for start, part, k in zip(starts, parts, count.tolist(), strict=True)
        ]
    )
