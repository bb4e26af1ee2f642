"""Hinge losses of a critic and of the network it judges, and the distance of its features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hinge_discriminator(
    real: Float[Tensor, "*shape"], fake: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Half the mean of max(0, 1 - real) + max(0, 1 + fake). Source: arXiv:1705.02894."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Minus the mean score of what was generated."""
    return -fake.mean()


def feature_matching(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Mean L1 distance of a critic's feature maps, relative to those of the real input.

    Source: EnCodec, arXiv:2210.13438, equation 4.
    """
    distances = [
        F.l1_loss(b, a.detach()) / a.detach().abs().mean().clamp_min(1e-6)
        for scale_real, scale_fake in zip(real, fake, strict=True)
        for a, b in zip(scale_real, scale_fake, strict=True)
    ]
    return torch.stack(distances).mean()
