"""Residual vector quantizer of EnCodec, with a restart of dead codes that takes effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from encodec.quantization.core_vq import ResidualVectorQuantization, laplace_smoothing
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_omni.nn.cpu import without_autocast
from lightning_omni.nn.ranks import sum_over_ranks, world_size
from lightning_omni.pretrained import Pretrained


@dataclass(frozen=True, slots=True)
class QuantizedFrames:
    """Result of the quantizer.

    Attributes:
        latents: Sum of the codebook vectors with a straight-through gradient, Float[B N D].
        codes: Codes in [0, codebook_size), Int[B N Q].
        commitment: Mean squared distance of the latents to the vectors of the first codebook.
    """

    latents: Tensor
    codes: Tensor
    commitment: Tensor


class ResidualQuantizer(Pretrained):
    """Quantize with several codebooks, each applied to the residual of the previous ones.

    Args:
        dim: Size D of a latent frame.
        num_codebooks: Number of codebooks Q.
        codebook_size: Number of codes K of a codebook.
        decay: Decay of the moving averages that update the codebooks.
        dead_below: Moving count below which a code is restarted from the batch.

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
        """Quantize with the first `num_codebooks` codebooks; training mode updates them."""
        with without_autocast(z.device.type):
            frames = z.float().transpose(1, 2)
            before = self._moving_averages() if self.training and world_size() > 1 else None
            quantized, codes, losses = self.layers(frames, n_q=num_codebooks)
            if before is not None:
                self._update_from_all_ranks(before, num_codebooks)
        latents = quantized.transpose(1, 2)
        latents = z + (latents - z).detach()
        return QuantizedFrames(latents, codes.permute(1, 2, 0), losses[0].mean())

    def encode(self, z: Float[Tensor, "B N D"], *, num_codebooks: int) -> Int[Tensor, "B N Q"]:
        """Return the codes of latents."""
        codes: Tensor = self.layers.encode(z.float().transpose(1, 2), n_q=num_codebooks)
        return codes.permute(1, 2, 0)

    def decode(self, codes: Int[Tensor, "B N Q"]) -> Float[Tensor, "B N D"]:
        """Return the sum of the codebook vectors."""
        quantized: Tensor = self.layers.decode(codes.permute(2, 0, 1))
        return quantized.transpose(1, 2)

    def _moving_averages(self) -> list[Tensor]:
        """Return the moving counts, then the moving sums, of all levels."""
        books = [layer._codebook for layer in self.layers.layers]
        return [*(b.cluster_size.clone() for b in books), *(b.embed_avg.clone() for b in books)]

    @torch.no_grad()
    def _update_from_all_ranks(self, before: list[Tensor], num_codebooks: int) -> None:
        """Update the codebooks with the vectors of all processes; `encodec` uses those of one.

        Args:
            before: moving averages before the update, equal on all processes.
            num_codebooks: number of levels that the batch used.
        """
        added = [now - old for now, old in zip(self._moving_averages(), before, strict=True)]
        sum_over_ranks(added)
        for level, layer in enumerate(self.layers.layers[:num_codebooks]):
            book = layer._codebook
            for value, index in (
                (book.cluster_size, level),
                (book.embed_avg, level + len(self.layers.layers)),
            ):
                # each process decayed the old average once
                decayed = before[index] * ((world_size() - 1) * (1 - book.decay))
                value.copy_(before[index] + added[index] + decayed)
            smoothed = laplace_smoothing(book.cluster_size, book.codebook_size, book.epsilon)
            book.embed.copy_(book.embed_avg / (smoothed * book.cluster_size.sum())[:, None])

    @property
    def codebooks(self) -> Float[Tensor, "Q K D"]:
        """Vectors of all codebooks."""
        return torch.stack([layer._codebook.embed for layer in self.layers.layers])

    @torch.no_grad()
    def initialise_codebooks(
        self, z: Float[Tensor, "V D"], *, iterations: int, rng: Generator
    ) -> None:
        """Initialise each codebook by k-means on the residuals of the previous ones.

        Args:
            z: Latent vectors.
            iterations: Number of k-means iterations.
            rng: Generator that draws the first centres.
        """
        residual = z.float()
        for layer in self.layers.layers:
            centres = _k_means(residual, self.codebook_size, iterations, rng)
            nearest = torch.cdist(residual, centres).argmin(1)
            counts = torch.bincount(nearest, minlength=self.codebook_size).float()
            _set_codebook(layer._codebook, slice(None), centres, counts.clamp_min(0.5))
            residual = residual - centres[nearest]

    @torch.no_grad()
    def restart_dead_codes(self, z: Float[Tensor, "V D"], *, rng: Generator) -> int:
        """Replace dead codes by random residuals of the batch; return their number.

        `encodec` replaces the vector of a code but not its moving averages, which then overwrite
        it.
        """
        residual, restarted = z.float(), 0
        for layer in self.layers.layers:
            book = layer._codebook
            dead = (book.cluster_size < self.dead_below).nonzero().squeeze(1)
            if len(dead):
                pick = torch.randint(len(residual), (len(dead),), generator=rng)
                size = torch.full_like(book.cluster_size[dead], 0.15)
                _set_codebook(book, dead, residual[pick.to(residual.device)], size)
                restarted += len(dead)
            nearest = torch.cdist(residual, book.embed).argmin(1)
            residual = residual - book.embed[nearest]
        return restarted


def _set_codebook(book: Any, index: Tensor | slice, vectors: Tensor, size: Tensor) -> None:
    """Set vectors together with the moving averages they are computed from."""
    book.embed[index] = vectors
    book.cluster_size[index] = size
    book.embed_avg[index] = vectors * size[:, None]
    book.inited.fill_(True)


def _k_means(x: Tensor, num_centres: int, iterations: int, rng: Generator) -> Tensor:
    """Run Lloyd's algorithm from random points; a centre without points stays unchanged."""
    replace = len(x) < num_centres
    start = (
        torch.randint(len(x), (num_centres,), generator=rng)
        if replace
        else torch.randperm(len(x), generator=rng)[:num_centres]
    )
    centres = x[start.to(x.device)].clone()
    for _ in range(iterations):
        nearest = torch.cdist(x, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=num_centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
    return centres
