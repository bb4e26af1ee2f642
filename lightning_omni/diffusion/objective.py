"""The training loss: a bound on the negative log-likelihood, from scores at masked positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def masked_nll(
    logits: Float[Tensor, "M V"], x0: Int[Tensor, " M"], *, mask_token_id: int
) -> Float[Tensor, " M"]:
    """-log p(x_0) in nats at each masked position, in float32.

    The mask itself is never a valid prediction, so its score is removed.

    Source: MDLM, arXiv:2406.07524, section 3.2.3 (zero masking probability).
    """
    logits = logits.float()
    forbidden = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    forbidden[mask_token_id] = True
    return F.cross_entropy(logits.masked_fill(forbidden, -torch.inf), x0, reduction="none")


def weighted_mean(
    nats: Float[Tensor, " M"],
    weight: Float[Tensor, " M"],
    num_maskable: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Weighted nats per maskable token: the bound of a batch.

    Dividing by the maskable tokens, not by the masked ones, is what keeps 1/t weights unbiased.
    """
    return (nats * weight).sum() / num_maskable
