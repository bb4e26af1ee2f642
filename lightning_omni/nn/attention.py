"""Grouped-query attention of one layer, and its key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.nn.norm import RMSNorm
from lightning_omni.nn.rotary import rotate
from lightning_omni.nn.segments import SegmentLayout, segment_attention


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """The tokens at which queries are computed, where all tokens serve as keys and values.

    Attributes:
        positions: Their ascending positions, Int[M].
        layout: Their segments.
    """

    positions: Tensor
    layout: SegmentLayout


class LayerKVCache:
    """Cached keys and values of one layer.

    Args:
        recomputed: Positions of the tokens that later passes recompute, Int[R].
        layout: Segments of all tokens.
    """

    def __init__(self, recomputed: Tensor, layout: SegmentLayout) -> None:
        self.recomputed, self.layout = recomputed, layout
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of a pass; return the cached ones of all tokens."""
        if self.key is None or self.value is None:
            self.key, self.value = key.clone(), value.clone()
        else:
            self.key[self.recomputed], self.value[self.recomputed] = key, value
        return self.key, self.value


class GroupedQueryAttention(nn.Module):
    """Multi-head attention whose key-value heads are each shared by a group of query heads.

    Args:
        dim: Model width D.
        num_heads: Number of query heads, a divisor of `dim`.
        num_kv_heads: Number of key-value heads, a divisor of `num_heads`.
        qkv_bias: Add biases to the query, key and value projections.
        qk_norm: Apply RMSNorm to queries and keys per head.
        norm_eps: Epsilon of these norms.
        head_dim: Size of a head; None for `dim / num_heads`.

    Source: GQA, arXiv:2305.13245; query-key norm, arXiv:2302.05442 section 3.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        qkv_bias: bool,
        qk_norm: bool,
        norm_eps: float,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        query_dim, kv_dim = num_heads * self.head_dim, num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(dim, query_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(query_dim, dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "T D"],
        cos: Float[Tensor, "T K"],
        sin: Float[Tensor, "T K"],
        layout: SegmentLayout,
        cache: LayerKVCache | None = None,
        queries: Queries | None = None,
    ) -> Float[Tensor, "M D"]:
        """Mix tokens within their segment.

        Args:
            x: Inputs of all tokens; if `cache` holds states, of its recomputed tokens only.
            cos: Cosines of the rotary angles.
            sin: Sines of the rotary angles.
            layout: Segments of the tokens in `x`.
            cache: Keys and values from earlier passes, updated by this one.
            queries: Tokens at which queries are computed; None computes them everywhere.
        """
        query_input = x if queries is None else x[queries.positions]
        query = self.q_proj(query_input).unflatten(-1, (self.num_heads, self.head_dim))
        key = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        value = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query).to(value.dtype)
            key = self.k_norm(key).to(value.dtype)
        key, key_layout = rotate(key, cos, sin), layout
        if queries is not None:
            cos, sin, layout = cos[queries.positions], sin[queries.positions], queries.layout
        query = rotate(query, cos, sin)
        if cache is not None:
            key, value = cache.update(key, value)
            key_layout = cache.layout
        mixed = segment_attention(query, key, value, layout, key_layout)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out
