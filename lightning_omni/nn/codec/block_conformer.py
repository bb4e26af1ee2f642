"""Transformer with relative positions that is causal by blocks, as GLM-4-Voice's decoder has it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_omni.nn.codec.feed_forward import FrameFeedForward
from lightning_omni.pretrained import Pretrained

MAX_QUERIES = 512
"""Frames whose scores are held at once: 41 s of speech at 12.5 frames per second."""


class RelativeAttention(nn.Module):
    """Self-attention whose scores depend on the distance of two frames too.

    Scores are computed for `MAX_QUERIES` frames at a time, so that memory does not grow with the
    square of the length.

    Args:
        dim: Width D.
        num_heads: Attention heads.

    Source: Transformer-XL, arXiv:1901.02860, section 3.3.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, dim // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, dim // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        distances: Float[Tensor, "P D"],
        allowed: Bool[Tensor, "N N"],
    ) -> Float[Tensor, "B N D"]:
        """Mix frames.

        Args:
            x: Frames.
            distances: Encodings of the distances N - 1 to 1 - N, query minus key, P = 2N - 1.
            allowed: Which keys (columns) a query (row) attends to.
        """
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1))
            for projection in (self.linear_q, self.linear_k, self.linear_v)
        )
        encoded = self.linear_pos(distances).unflatten(-1, (self.num_heads, -1))
        num_frames, mixed = x.shape[1], []
        for start in range(0, num_frames, MAX_QUERIES):
            stop = min(start + MAX_QUERIES, num_frames)
            # the last of these queries has the first distance to the first key
            near = encoded[num_frames - stop : 2 * num_frames - 1 - start]
            scores = self._score(query[:, start:stop], key, near)
            weights = scores.masked_fill(~allowed[start:stop], -math.inf).softmax(-1)
            mixed.append(torch.einsum("bhqk,bkhd->bqhd", weights, value))
        out: Tensor = self.linear_out(torch.cat(mixed, dim=1).flatten(2))
        return out

    def _score(
        self,
        query: Float[Tensor, "B Q H E"],
        key: Float[Tensor, "B N H E"],
        encoded: Float[Tensor, "P H E"],
    ) -> Float[Tensor, "B H Q N"]:
        """Return scores of neighbouring queries; P = Q + N - 1 distances, the longest first."""
        by_content = torch.einsum("bqhd,bkhd->bhqk", query + self.pos_bias_u, key)
        by_distance = torch.einsum("bqhd,phd->bhqp", query + self.pos_bias_v, encoded)
        num_queries, num_keys = query.shape[1], key.shape[1]
        behind = torch.arange(num_queries - 1, -1, -1, device=query.device)
        column = behind[:, None] + torch.arange(num_keys, device=query.device)
        by_distance = by_distance.gather(-1, column.expand(*by_distance.shape[:2], -1, -1))
        return (by_content + by_distance) / math.sqrt(key.shape[-1])


class ConformerLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm; without convolutions.

    Args:
        dim: Width D.
        num_heads: Attention heads.
        hidden_dim: Size between the layers of the feed-forward.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(dim, num_heads)
        self.feed_forward = FrameFeedForward(dim, hidden_dim, activation=F.silu)
        self.norm_ff = nn.LayerNorm(dim)
        self.norm_mha = nn.LayerNorm(dim)

    def forward(self, x: Tensor, distances: Tensor, allowed: Tensor) -> Float[Tensor, "B N D"]:
        """Transform frames; see `RelativeAttention`."""
        x = x + self.self_attn(self.norm_mha(x), distances, allowed)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class FrameEmbedding(nn.Module):
    """Linear layer and layer norm.

    Args:
        input_dim: Size of a frame that comes in.
        dim: Width D.
    """

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(input_dim, dim), nn.LayerNorm(dim))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        """Embed each frame."""
        out: Tensor = self.out(x)
        return out


class BlockConformer(Pretrained):
    """Encoder of frames that attend to their block and to earlier ones; published weight names.

    Args:
        input_dim: Size C of a frame that comes in.
        dim: Width D.
        num_heads: Attention heads.
        hidden_dim: Size between the layers of a feed-forward.
        num_layers: Number of layers.
        block_size: Frames of a block.

    Source: CosyVoice, arXiv:2407.05407; the blocks: GLM-4-Voice, arXiv:2412.02612, section 3.2.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        block_size: int,
    ) -> None:
        super().__init__()
        self.block_size, self.scale = block_size, math.sqrt(dim)
        self.embed = FrameEmbedding(input_dim, dim)
        self.encoders = nn.ModuleList(
            ConformerLayer(dim, num_heads, hidden_dim) for _ in range(num_layers)
        )
        self.after_norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N D"]:
        """Encode frames."""
        x = self.embed(x) * self.scale
        block = torch.arange(x.shape[1], device=x.device) // self.block_size
        allowed = block[:, None] >= block
        distances = encode_distances(x)
        for layer in self.encoders:
            x = layer(x, distances, allowed)
        out: Tensor = self.after_norm(x)
        return out


def encode_distances(x: Float[Tensor, "B N D"]) -> Float[Tensor, "P D"]:
    """Return sines and cosines, in turn, of the distances N - 1 to 1 - N; P = 2N - 1."""
    num_frames, dim = x.shape[1:]
    distance = torch.arange(num_frames - 1, -num_frames, -1, dtype=x.dtype, device=x.device)
    index = torch.arange(0, dim, 2, dtype=x.dtype, device=x.device)
    rates = torch.exp(index * (-math.log(10_000) / dim))
    angles = distance[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
