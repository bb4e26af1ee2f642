"""The forward process q(x_t | x_0): which tokens are masked at time t."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.vocab import Vocab


def bernoulli_mask(
    u: Float[Tensor, " T"], maskable: Bool[Tensor, " T"], alpha_t: Float[Tensor, " T"]
) -> Bool[Tensor, " T"]:
    """Mask each maskable token on its own with probability 1 - alpha_t.

    `alpha_t` must be constant within a segment. With one draw per token every mask ratio would be
    close to one half, and the all-masked canvas where sampling starts would never be trained.

    Args:
        u: Uniform noise in [0, 1).
        maskable: True for answer tokens; False for prompts and padding.
        alpha_t: Keep-probability of each token, in [0, 1].

    Source: MDLM, arXiv:2406.07524, section 3.1.
    """
    return (u >= alpha_t) & maskable


def counted_mask(
    u: Float[Tensor, " T"],
    maskable: Bool[Tensor, " T"],
    ratio: Float[Tensor, " G"],
    group: Int[Tensor, " T"],
) -> tuple[Bool[Tensor, " T"], Float[Tensor, " G"]]:
    """Mask exactly ceil(ratio * n) of the n maskable tokens of each group, at least one.

    For uniform ratios this has the same expected weighted loss as independent masking, but the
    weight of a short answer is bounded by its length instead of by 1/t.

    Args:
        u: Uniform noise in [0, 1), which orders the tokens of a group.
        maskable: True for answer tokens.
        ratio: Wanted share of masks per group, in (0, 1].
        group: Group of each token, non-decreasing where `maskable`.

    Returns:
        True where a token is masked, and the realised ratio of each group (1 where empty).

    Source: LLaDA, arXiv:2502.09992, equation 6 (exact counts have lower variance).
    """
    num_groups = ratio.shape[0]
    where = maskable.nonzero().squeeze(1)
    member = group[where]
    count = torch.zeros(num_groups, dtype=torch.long, device=u.device)
    count.scatter_add_(0, member, torch.ones_like(member))
    target = (ratio.double() * count).ceil().long().clamp(min=1)
    order = (member.double() + u[where].double()).argsort(stable=True)
    first = count.cumsum(0) - count
    sorted_member = member[order]
    rank = torch.arange(len(order), device=u.device) - first[sorted_member]
    is_masked = torch.zeros_like(maskable)
    is_masked[where[order[rank < target[sorted_member]]]] = True
    realised = (target.minimum(count.clamp_min(1)) / count.clamp_min(1)).float()
    return is_masked, realised


def replaced_ids(
    x0: Int[Tensor, " T"], u: Float[Tensor, " T"], vocab: Vocab, *, codebooks: int
) -> Int[Tensor, " T"]:
    """Draw a random id of the same modality, and for speech of the same codebook, for every token.

    Special tokens stay as they are.

    Args:
        x0: True ids.
        u: Uniform noise in [0, 1).
        vocab: The id space.
        codebooks: Speech codes per frame; the span holds one codebook behind another.

    Source: edit training of LLaDA 2.1, technical report.
    """
    out = x0.clone()
    for name in vocab.modalities:
        span = vocab.span(name)
        size = span.size // (codebooks if name == "speech" else 1)
        inside = (x0 >= span.start) & (x0 < span.stop)
        level = (x0 - span.start) // size
        drawn = span.start + level * size + (u * size).long()
        out = torch.where(inside, drawn, out)
    return out
