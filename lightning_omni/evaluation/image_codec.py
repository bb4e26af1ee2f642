"""Scores of an image tokenizer: PSNR and SSIM of reconstructions, and use of the codebook."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lightning_omni.data.media import center_crop_and_resize, image_to_tensor
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.statistics import Estimate, mean_of_values
from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.tokenizers.image import ImageTokenizer

_BATCH = 64
_RANGE = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ImageCodecScores:
    """Scores over `n` pictures.

    Attributes:
        psnr_db: Mean peak signal-to-noise ratio of a picture, in dB.
        ssim: Mean structural similarity of a picture.
        usage: Share of the codes that occur in any picture.
        perplexity: Perplexity of the distribution of codes.
        flat_entropy_bits: Entropy of the code of a one-coloured patch given its colour, in bits;
            near 0 if the code is a function of the colour. None without such patches.
        flat_share: Share of patches of one colour.
        n: Number of pictures.
    """

    psnr_db: Estimate
    ssim: Estimate
    usage: float
    perplexity: float
    flat_entropy_bits: float | None
    flat_share: float
    n: int


@torch.inference_mode()
def score_image_codec(
    tokenizer: ImageTokenizer, pictures: Sequence[Image.Image], *, seed: int
) -> ImageCodecScores:
    """Score the reconstructions of pictures.

    Args:
        tokenizer: Image tokenizer.
        pictures: Pictures of any size; they are cropped to squares and resized.
        seed: Seed of bootstrap intervals.

    Raises:
        OmniError: If there are no pictures.
    """
    if not pictures:
        raise OmniError("no pictures to reconstruct; name a split that has some")
    use = CodebookUse(tokenizer.num_codes)
    psnr: list[float] = []
    ssim: list[float] = []
    colors: list[Tensor] = []
    flat_codes: list[Tensor] = []
    num_patches = 0
    for start in range(0, len(pictures), _BATCH):
        squares = [
            center_crop_and_resize(p, tokenizer.image_size)
            for p in pictures[start : start + _BATCH]
        ]
        real = torch.stack([image_to_tensor(p) for p in squares])
        codes = tokenizer.encode(real.to(tokenizer.device))
        rows = tokenizer.columns
        rebuilt = tokenizer.decode(codes, rows=rows).clamp(*_RANGE).cpu()
        codes = codes.cpu()
        use.update(codes)
        for a, b in zip(rebuilt, real, strict=True):
            psnr.append(float(peak_signal_noise_ratio(a[None], b[None], data_range=_RANGE)))
        each = structural_similarity_index_measure(
            rebuilt, real, data_range=_RANGE, reduction="none"
        )
        assert isinstance(each, Tensor)  # noqa: S101
        ssim += each.tolist()
        color, is_flat = flat_patches(real, tokenizer.downsample_factor)
        colors.append(color[is_flat])
        flat_codes.append(codes[is_flat])
        num_patches += codes.numel()
    used = use.compute()
    flat = torch.cat(flat_codes)
    return ImageCodecScores(
        psnr_db=mean_of_values(psnr, seed=seed),
        ssim=mean_of_values(ssim, seed=seed),
        usage=float(used["usage"]),
        perplexity=float(used["perplexity"]),
        flat_entropy_bits=conditional_entropy_bits(flat, torch.cat(colors)) if len(flat) else None,
        flat_share=len(flat) / num_patches,
        n=len(pictures),
    )


def flat_patches(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the colour of each patch's first pixel, and whether the patch has no other colour.

    Args:
        images: Float[B 3 H W] in [-1, 1].
        side: Side length of a patch, in pixels.

    Returns:
        Int[B N], colours as one integer each, and Bool[B N]; N patches in raster order.
    """
    levels = ((images + 1) * 127.5).round().long()
    colors = (levels[:, 0] * 256 + levels[:, 1]) * 256 + levels[:, 2]
    patches = colors.unfold(1, side, side).unfold(2, side, side).flatten(3).flatten(1, 2)
    return patches[..., 0], (patches == patches[..., :1]).all(-1)


def conditional_entropy_bits(codes: Tensor, given: Tensor) -> float:
    """Return H(codes | given) in bits for the paired Int[N] values."""
    pairs = Counter(zip(given.tolist(), codes.tolist(), strict=True))
    counts = Counter(given.tolist())
    bits = (n * math.log2(counts[value] / n) for (value, _), n in pairs.items())
    return sum(bits) / len(codes)
