"""Hinge losses of a critic and of the network it judges."""

from __future__ import annotations

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
