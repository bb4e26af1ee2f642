"""Velocity field of a flow between mel spectra and noise: a one-dimensional U-Net."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.pretrained import Pretrained

NUM_GROUPS = 8
"""Groups of channels of a norm, which divide all channels."""
_TIME_SCALE = 1000.0


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time in [0, 1], and two linear layers.

    Args:
        input_dim: Number of sines and cosines.
        dim: Size of the embedding.
    """

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.num_rates = input_dim // 2
        self.linear_1 = nn.Linear(input_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Embed the times."""
        index = torch.arange(self.num_rates, dtype=t.dtype, device=t.device)
        rates = torch.exp(index * (-math.log(10_000) / (self.num_rates - 1)))
        angles = _TIME_SCALE * t[:, None] * rates
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        out: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return out


class ConvBlock(nn.Module):
    """Convolution, group norm and Mish.

    Args:
        channels: Channels that come in.
        out_channels: Channels that go out.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(channels, out_channels, 3, padding=1),
            nn.GroupNorm(NUM_GROUPS, out_channels),
            nn.Mish(),
        )

    def forward(self, x: Float[Tensor, "B C M"]) -> Float[Tensor, "B D M"]:
        """Transform spectra."""
        out: Tensor = self.block(x)
        return out


class TimedResBlock(nn.Module):
    """Residual block to which the time is added.

    Args:
        channels: Channels that come in.
        out_channels: Channels that go out.
        time_dim: Size of the embedded time.
    """

    def __init__(self, channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out_channels))
        self.block1 = ConvBlock(channels, out_channels)
        self.block2 = ConvBlock(out_channels, out_channels)
        self.res_conv = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C M"], time: Tensor) -> Float[Tensor, "B D M"]:
        """Transform spectra."""
        inner = self.block2(self.block1(x) + self.mlp(time)[..., None])
        out: Tensor = inner + self.res_conv(x)
        return out


class UnetAttention(nn.Module):
    """Self-attention whose projections in have no bias.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        head_dim: Size of a head; all heads may be wider than the width.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, inner = num_heads, num_heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])

    def forward(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Mix frames."""
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out


class GeluProjection(nn.Module):
    """Linear layer and GELU.

    Args:
        dim: Size that comes in.
        hidden_dim: Size that goes out.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each frame."""
        return F.gelu(self.proj(x))


class UnetFeedForward(nn.Module):
    """Two linear layers with a GELU between them; the hidden size is four times the width.

    Args:
        dim: Width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [GeluProjection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)]
        )

    def forward(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Transform each frame."""
        for layer in self.net:
            x = layer(x)
        return x


class UnetTransformer(nn.Module):
    """Attention and feed-forward, each behind a layer norm.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        head_dim: Size of a head.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = UnetAttention(dim, num_heads, head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = UnetFeedForward(dim)

    def forward(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Transform frames."""
        x = x + self.attn1(self.norm1(x))
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Upsample(nn.Module):
    """Transposed convolution to twice the length.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, 2, 1)

    def forward(self, x: Float[Tensor, "B C M"]) -> Tensor:
        """Upsample."""
        out: Tensor = self.conv(x)
        return out


class Downsample(nn.Module):
    """Strided convolution to half the length, rounded up.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, 2, 1)

    def forward(self, x: Float[Tensor, "B C M"]) -> Tensor:
        """Downsample."""
        out: Tensor = self.conv(x)
        return out


class FlowUnet(Pretrained):
    """Velocity of a spectrum on its way from noise, given its condition; published weight names.

    Args:
        in_channels: Channels of spectrum and condition together.
        out_channels: Bands of a spectrum.
        channels: Channels of each level, each of half the length of the one before.
        num_blocks: Transformer blocks behind each residual block.
        num_mid_blocks: Residual blocks at the deepest level.
        num_heads: Attention heads.
        head_dim: Size of a head.

    Source: Matcha-TTS, arXiv:2309.03199, section 2.3; CosyVoice, arXiv:2407.05407.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: list[int],
        num_blocks: int,
        num_mid_blocks: int,
        num_heads: int,
        head_dim: int,
    ) -> None:
        super().__init__()
        time_dim = 4 * channels[0]
        self.time_mlp = TimeEmbedding(in_channels, time_dim)

        def level(size: int, out_size: int, change: nn.Module | None) -> nn.ModuleList:
            transformers = nn.ModuleList(
                UnetTransformer(out_size, num_heads, head_dim) for _ in range(num_blocks)
            )
            parts = [TimedResBlock(size, out_size, time_dim), transformers]
            return nn.ModuleList(parts if change is None else [*parts, change])

        deepest = channels[-1]
        self.down_blocks = nn.ModuleList()
        for index, size in enumerate(channels):
            before = channels[index - 1] if index else in_channels
            is_last = index == len(channels) - 1
            plain = nn.Conv1d(size, size, 3, padding=1)
            self.down_blocks.append(level(before, size, plain if is_last else Downsample(size)))
        self.mid_blocks = nn.ModuleList(
            level(deepest, deepest, None) for _ in range(num_mid_blocks)
        )
        sizes = [*reversed(channels), channels[0]]
        self.up_blocks = nn.ModuleList()
        for index, (before, size) in enumerate(pairwise(sizes)):
            is_last = index == len(channels) - 1
            plain = nn.Conv1d(size, size, 3, padding=1)
            self.up_blocks.append(level(2 * before, size, plain if is_last else Upsample(size)))
        self.final_block = ConvBlock(channels[0], channels[0])
        self.final_proj = nn.Conv1d(channels[0], out_channels, 1)

    def forward(
        self, x: Float[Tensor, "B M F"], condition: Float[Tensor, "B C F"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B M F"]:
        """Return velocities.

        Args:
            x: Spectra of M bands on their way.
            condition: What they are generated for.
            t: Times in [0, 1]; noise is at 0.
        """
        time = self.time_mlp(t)
        x = torch.cat((x, condition), dim=1)
        skipped = []
        for level in self.down_blocks:
            residual, transformers, change = level.children()
            x = _run_level(residual, transformers, x, time)
            skipped.append(x)
            x = change(x)
        for level in self.mid_blocks:
            residual, transformers = level.children()
            x = _run_level(residual, transformers, x, time)
        for level in self.up_blocks:
            residual, transformers, change = level.children()
            skip = skipped.pop()
            x = torch.cat((x[..., : skip.shape[-1]], skip), dim=1)
            x = change(_run_level(residual, transformers, x, time))
        out: Tensor = self.final_proj(self.final_block(x))
        return out


def _run_level(
    residual: nn.Module, transformers: nn.Module, x: Float[Tensor, "B C F"], time: Tensor
) -> Float[Tensor, "B D F"]:
    x = residual(x, time).transpose(1, 2)
    for transformer in transformers.children():
        x = transformer(x)
    return x.transpose(1, 2)
