"""SAN-M encoder: self-attention with a memory of near frames, as SenseVoice has it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.nn.codec.feed_forward import FrameFeedForward


class SanmAttention(nn.Module):
    """Self-attention, plus a filter over the values of near frames.

    Args:
        input_dim: Size of a frame that comes in.
        dim: Size D of a frame that goes out.
        num_heads: Attention heads.
        kernel_size: Frames that the filter of each channel spans.

    Source: SAN-M, arXiv:2006.01713, section 2.2.
    """

    def __init__(self, input_dim: int, dim: int, num_heads: int, kernel_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q_k_v = nn.Linear(input_dim, 3 * dim)
        self.linear_out = nn.Linear(dim, dim)
        self.fsmn_block = nn.Conv1d(
            dim, dim, kernel_size, padding=(kernel_size - 1) // 2, groups=dim, bias=False
        )

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        """Mix the frames."""
        query, key, value = self.linear_q_k_v(x).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        memory = self.fsmn_block(value.transpose(1, 2)).transpose(1, 2) + value
        out: Tensor = self.linear_out(mixed) + memory
        return out


class SanmLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm; a change of size has no residual.

    Args:
        input_dim: Size of a frame that comes in.
        dim: Size of a frame that goes out.
        num_heads: See `SanmAttention`.
        hidden_dim: See `FrameFeedForward`.
        kernel_size: See `SanmAttention`.
    """

    def __init__(
        self, input_dim: int, dim: int, num_heads: int, hidden_dim: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.has_residual = input_dim == dim
        self.norm1 = nn.LayerNorm(input_dim)
        self.self_attn = SanmAttention(input_dim, dim, num_heads, kernel_size)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = FrameFeedForward(dim, hidden_dim, activation=F.relu)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        """Transform a sequence of frames."""
        mixed = self.self_attn(self.norm1(x))
        x = x + mixed if self.has_residual else mixed
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class SanmEncoder(nn.Module):
    """Encoder of SenseVoiceSmall; its weights have the published names.

    Args:
        input_dim: Size C of a frame that comes in.
        dim: Size D of a frame that goes out.
        num_heads: Attention heads.
        hidden_dim: Size between the layers of feed-forwards.
        num_layers: Layers before the first final norm.
        num_tp_layers: Layers between the first and the second final norm.
        kernel_size: Frames that the memory spans.

    Source: SenseVoice, arXiv:2407.04051; SAN-M, arXiv:2006.01713.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        num_tp_layers: int,
        kernel_size: int,
    ) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        rest = (num_heads, hidden_dim, kernel_size)
        self.encoders0 = nn.ModuleList([SanmLayer(input_dim, dim, *rest)])
        self.encoders = nn.ModuleList(SanmLayer(dim, dim, *rest) for _ in range(num_layers - 1))
        self.tp_encoders = nn.ModuleList(SanmLayer(dim, dim, *rest) for _ in range(num_tp_layers))
        self.after_norm = nn.LayerNorm(dim)
        self.tp_norm = nn.LayerNorm(dim)

    def forward(self, frames: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        """Encode frames; all of a batch are of one length."""
        x = frames * self.scale + sinusoidal_positions(frames)
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x)
        out: Tensor = self.tp_norm(x)
        return out


def sinusoidal_positions(frames: Float[Tensor, "B N C"]) -> Float[Tensor, "N C"]:
    """Return sines, then cosines, of positions counted from 1, with periods from 2π to 20000π."""
    half = frames.shape[2] // 2
    index = torch.arange(half, dtype=frames.dtype, device=frames.device)
    rates = torch.exp(index * (-math.log(10_000) / (half - 1)))
    position = torch.arange(1, frames.shape[1] + 1, dtype=frames.dtype, device=frames.device)
    angles = position[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
