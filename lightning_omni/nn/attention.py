"""Grouped-query attention of one layer, and what it remembers between passes."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_omni.nn.rotary import rotate
from lightning_omni.nn.segments import SegmentLayout, segment_attention


class LayerMemory:
    """Keys and values of one layer that outlive a pass.

    Args:
        live: Places of the tokens that later passes bring up to date, Int[R].
        layout: Where the segments of all tokens lie.
    """

    def __init__(self, live: Tensor, layout: SegmentLayout) -> None:
        self.live, self.layout = live, layout
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take in the keys and values of a pass and return those of all tokens."""
        if self.key is None or self.value is None:
            self.key, self.value = key.clone(), value.clone()
        else:
            self.key[self.live], self.value[self.live] = key, value
        return self.key, self.value


class GroupedQueryAttention(nn.Module):
    """Multi-head attention whose key-value heads are shared by groups of query heads.

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
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        kv_dim = num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dim, kv_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=norm_eps) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "T D"],
        cos: Float[Tensor, "T K"],
        sin: Float[Tensor, "T K"],
        layout: SegmentLayout,
        memory: LayerMemory | None = None,
        places: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Mix tokens within their segment; `cos` and `sin` are the rotary tables.

        With a filled `memory` the tokens given are the live ones of `memory.layout`; without one
        they are all, and are remembered. With `places` only those tokens ask, all answer.
        """
        asking = x if places is None else x[places]
        query = self.q_proj(asking).unflatten(-1, (self.num_heads, self.head_dim))
        key = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        value = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query.float()).to(value.dtype)
            key = self.k_norm(key.float()).to(value.dtype)
        key, key_layout = rotate(key, cos, sin), layout
        if places is not None:
            cos, sin, layout = cos[places], sin[places], layout.of_some(places)
        query = rotate(query, cos, sin)
        if memory is not None:
            key, value = memory.update(key, value)
            key_layout = memory.layout
        mixed = segment_attention(query, key, value, layout, key_layout)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out
