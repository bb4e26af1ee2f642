"""Convolutional image encoder and decoder with the architecture of MAGVIT-v2.

Source: MAGVIT-v2, arXiv:2310.05737, appendix.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(groups, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """Pre-activation residual block: norm, swish, 3 x 3 convolution, twice."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _group_norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B K Y X"]:
        """Transform a feature map."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.shortcut(x) + h
        return out


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Y X"]:
        """Let all positions attend to each other."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Halve rows and columns: pad right and bottom, then a strided 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C V W"]:
        """Halve a feature map."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double rows and columns: nearest neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C V W"]:
        """Double a feature map."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _middle_blocks(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        ResBlock(channels, channels, groups),
        SpatialAttention(channels, groups),
        ResBlock(channels, channels, groups),
    )


class ConvEncoder(nn.Module):
    """Encode pixels to a grid of latent vectors.

    Args:
        channels: Base width.
        multipliers: Width of each level as a multiple of the base; each level but the last halves
            rows and columns.
        blocks: Number of residual blocks of each level.
        latent_channels: Number of output channels.
        groups: Number of groups of the group norms.
        stem: Side of the pixel squares that are folded into channels before the first convolution
            (pixel unshuffle); 1 folds none. On a CPU, 4 is an order of magnitude faster than 1.
    """

    def __init__(
        self,
        channels: int,
        multipliers: list[int],
        blocks: list[int],
        latent_channels: int,
        groups: int,
        stem: int,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.stem = nn.PixelUnshuffle(stem)
        self.conv_in = nn.Conv2d(3 * stem**2, channels, 3, padding=1)
        self.levels = nn.ModuleList()
        width_in = channels
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            level = [ResBlock(width_in if j == 0 else width, width, groups) for j in range(count)]
            tail = [Downsample(width)] if i + 1 < len(widths) else []
            self.levels.append(nn.Sequential(*level, *tail))
            width_in = width
        self.middle = _middle_blocks(width_in, groups)
        self.norm_out = _group_norm(width_in, groups)
        self.conv_out = nn.Conv2d(width_in, latent_channels, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B C V W"]:
        """Encode pixels in [-1, 1]."""
        h = self.conv_in(self.stem(images))
        for level in self.levels:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.middle(h))))
        return out


class ConvDecoder(nn.Module):
    """Decode a grid of latent vectors to pixels; levels are listed from pixels to latents.

    Args:
        channels: Base width.
        multipliers: Width of each level as a multiple of the base.
        blocks: Number of residual blocks of each level.
        latent_channels: Number of input channels.
        groups: Number of groups of the group norms.
        stem: Side of the pixel squares that are unfolded at the end, as in the encoder.
    """

    def __init__(
        self,
        channels: int,
        multipliers: list[int],
        blocks: list[int],
        latent_channels: int,
        groups: int,
        stem: int,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.middle = _middle_blocks(widths[-1], groups)
        self.levels = nn.ModuleList()
        width_in = widths[-1]
        for i in reversed(range(len(widths))):
            width = widths[i]
            level = [
                ResBlock(width_in if j == 0 else width, width, groups) for j in range(blocks[i])
            ]
            tail = [Upsample(width)] if i > 0 else []
            self.levels.append(nn.Sequential(*level, *tail))
            width_in = width
        self.norm_out = _group_norm(width_in, groups)
        self.conv_out = nn.Conv2d(width_in, 3 * stem**2, 3, padding=1)
        self.stem = nn.PixelShuffle(stem)

    def forward(self, latents: Float[Tensor, "B C V W"]) -> Float[Tensor, "B 3 Y X"]:
        """Decode to pixels around [-1, 1], not clamped."""
        h = self.middle(self.conv_in(latents))
        for level in self.levels:
            h = level(h)
        out: Tensor = self.stem(self.conv_out(F.silu(self.norm_out(h))))
        return out
