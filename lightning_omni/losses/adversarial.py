"""Hinge losses of discriminator and generator, and feature matching."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_omni.nn.ranks import mean_over_ranks


def hinge_discriminator(
    real: Float[Tensor, "*shape"], fake: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Return half the mean of max(0, 1 - real) + max(0, 1 + fake). Source: arXiv:1705.02894."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return minus the mean score of the generator's output."""
    return -fake.mean()


def feature_matching(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Return the mean L1 distance of a discriminator's feature maps, relative to the real input's.

    Source: EnCodec, arXiv:2210.13438, equation 4.
    """
    pairs = [
        (a.detach(), b)
        for scale_real, scale_fake in zip(real, fake, strict=True)
        for a, b in zip(scale_real, scale_fake, strict=True)
    ]
    sizes = mean_over_ranks(torch.stack([a.abs().mean() for a, _ in pairs]))
    distances = [
        F.l1_loss(b, a) / size.clamp_min(1e-6) for (a, b), size in zip(pairs, sizes, strict=True)
    ]
    return torch.stack(distances).mean()
