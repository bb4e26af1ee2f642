"""EnCodec's residual vector quantizer, with its dead-code restart made effective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from encodec.quantization.core_vq import ResidualVectorQuantization
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_omni.pretrained import Pretrained


@dataclass(frozen=True, slots=True)
class QuantizedFrames:
    """Result of the quantizer.

    Attributes:
        latents: Sum of the codebook vectors with a straight-through gradient, Float[B N D].
        codes: Int[B N Q].
        commitment: Mean squared distance of the latents to their first codebook vectors.
    """

    latents: Tensor
    codes: Tensor
    commitment: Tensor


class ResidualQuantizer(Pretrained):
    """Codebooks that each quantize what the one before left.

    Args:
        dim: Size of a latent frame.
        num_codebooks: Levels Q.
        codebook_size: Codes of a level.
        decay: Of the codebooks' moving averages.
        dead_below: A code whose moving count falls below this is restarted from the batch.

    Source: SoundStream, arXiv:2107.03312, section III-C; the layers are those of `encodec`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int,
        codebook_size: int,
        decay: float = 0.98,
        dead_below: float = 0.05,
    ) -> None:
        super().__init__()
        self.dim, self.num_codebooks, self.codebook_size = dim, num_codebooks, codebook_size
        self.dead_below = dead_below
        self.layers: Any = ResidualVectorQuantization(  # type: ignore[no-untyped-call]
            num_quantizers=num_codebooks,
            dim=dim,
            codebook_size=codebook_size,
            decay=decay,
            kmeans_init=False,
            threshold_ema_dead_code=0,
        )

    def forward(self, z: Float[Tensor, "B N D"], *, num_codebooks: int) -> QuantizedFrames:
        """Quantize with the first `num_codebooks` levels; updates codebooks in training mode."""
        with torch.autocast(z.device.type, enabled=False):
            frames = z.float().transpose(1, 2)
            quantized, codes, losses = self.layers(frames, n_q=num_codebooks)
        latents = quantized.transpose(1, 2)
        latents = z + (latents - z).detach()
        return QuantizedFrames(latents, codes.permute(1, 2, 0), losses[0].mean())

    def encode(self, z: Float[Tensor, "B N D"], *, num_codebooks: int) -> Int[Tensor, "B N Q"]:
        """Codes only."""
        codes: Tensor = self.layers.encode(z.float().transpose(1, 2), n_q=num_codebooks)
        return codes.permute(1, 2, 0)

    def decode(self, codes: Int[Tensor, "B N Q"]) -> Float[Tensor, "B N D"]:
        """Sum of the codebook vectors."""
        quantized: Tensor = self.layers.decode(codes.permute(2, 0, 1))
        return quantized.transpose(1, 2)

    @property
    def codebooks(self) -> Float[Tensor, "Q K D"]:
        """Vectors of every level."""
        return torch.stack([layer._codebook.embed for layer in self.layers.layers])

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "V D"], *, iterations: int, rng: Generator) -> None:
        """Fit every level to latent vectors by k-means on what the levels before leave."""
        residual = z.float()
        for layer in self.layers.layers:
            centres = _k_means(residual, self.codebook_size, iterations, rng)
            nearest = torch.cdist(residual, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=self.codebook_size).float()
            _set_codebook(layer._codebook, slice(None), centres, counts.clamp_min(0.5))
            residual = residual - centres[nearest]

    @torch.no_grad()
    def restart_dead(self, z: Float[Tensor, "V D"], *, rng: Generator) -> int:
        """Move dead codes onto random residuals of the batch; returns how many.

        `encodec` restarts a code's vector but not its moving averages, which then overwrite it.
        """
        residual, restarted = z.float(), 0
        for layer in self.layers.layers:
            book = layer._codebook
            dead = (book.cluster_size < self.dead_below).nonzero().squeeze(1)
            if len(dead):
                pick = torch.randint(len(residual), (len(dead),), generator=rng)
                _set_codebook(book, dead, residual[pick], torch.full((len(dead),), 0.15))
                restarted += len(dead)
            nearest = torch.cdist(residual, book.embed).argmin(1)
            residual = residual - book.embed[nearest]
        return restarted


def _set_codebook(book: Any, where: Tensor | slice, vectors: Tensor, size: Tensor) -> None:
    """Set vectors together with the averages they are recomputed from."""
    book.embed[where] = vectors
    book.cluster_size[where] = size
    book.embed_avg[where] = vectors * size[:, None]
    book.inited.fill_(True)


def _k_means(x: Tensor, num_centres: int, iterations: int, rng: Generator) -> Tensor:
    """Lloyd's algorithm from random points; an empty centre stays where it is."""
    replace = len(x) < num_centres
    start = (
        torch.randint(len(x), (num_centres,), generator=rng)
        if replace
        else torch.randperm(len(x), generator=rng)[:num_centres]
    )
    centres = x[start].clone()
    for _ in range(iterations):
        nearest = torch.cdist(x, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=num_centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
    return centres
