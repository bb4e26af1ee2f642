"""Lookup-free quantization (LFQ): a code is the signs of a short vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_omni.nn.ranks import mean_over_ranks


@dataclass(frozen=True, slots=True)
class Quantized:
    """Result of a quantizer.

    Attributes:
        latents: Quantized vectors with a straight-through gradient, Float[B C Y X].
        codes: Codes in [0, 2^bits), Int[B Y X].
        commitment: Mean squared distance of the latents to their signs.
        sample_entropy: Mean entropy of the bits of a position, nats per bit; low if confident.
        batch_entropy: Entropy of the bits' batch means, nats per bit; high if all codes are used.
    """

    latents: Tensor
    codes: Tensor
    commitment: Tensor
    sample_entropy: Tensor
    batch_entropy: Tensor


class LookupFreeQuantizer(nn.Module):
    """Quantize each channel to its sign; channel 0 is the most significant bit.

    Entropies are factorised over bits, so their cost is linear in the number of bits.

    Args:
        bits: Number of channels C.

    Source: MAGVIT-v2, arXiv:2310.05737, section 3.1.
    """

    powers: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("powers", 2 ** torch.arange(bits).flip(0), persistent=False)

    def forward(self, z: Float[Tensor, "B C Y X"]) -> Quantized:
        """Quantize latents; zero counts as negative."""
        signs = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        probability = torch.sigmoid(4 * z.float())
        mean = probability.mean((0, 2, 3))
        if self.training and torch.is_grad_enabled():
            mean = mean_over_ranks(mean)
        return Quantized(
            latents=z + (signs - z).detach(),
            codes=self.codes(z),
            commitment=F.mse_loss(z, signs),
            sample_entropy=_bit_entropy(probability).mean(),
            batch_entropy=_bit_entropy(mean).mean(),
        )

    def codes(self, z: Float[Tensor, "B C Y X"]) -> Int[Tensor, "B Y X"]:
        """Return the code of each position: the sum over c of bit_c * 2^(bits - 1 - c)."""
        return ((z > 0).long() * self.powers[:, None, None]).sum(1)

    def vectors(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape C"]:
        """Return the signs of codes, -1 or 1."""
        return ((codes[..., None] & self.powers) > 0).float() * 2 - 1


def _bit_entropy(p: Tensor) -> Tensor:
    """Return the entropy of Bernoulli variables in nats."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())
