"""The backbone: a bidirectional transformer over packed segments of one id space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_omni.errors import OmniError
from lightning_omni.nn.attention import GroupedQueryAttention, LayerMemory
from lightning_omni.nn.cpu import as_factor
from lightning_omni.nn.embedding import OmniEmbedding
from lightning_omni.nn.feature_projector import FeatureProjector
from lightning_omni.nn.kv_cache import Memory
from lightning_omni.nn.rotary import RotaryAngles
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.pretrained import Pretrained
from lightning_omni.types import Continuous


class SwiGLU(nn.Module):
    """Gated feed-forward layer. Source: arXiv:2002.05202."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.up_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.down_proj = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Apply the layer to each token."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residual connections."""

    def __init__(
        self, dim: int, ffn_dim: int, attention: GroupedQueryAttention, eps: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=eps)
        self.attention = attention
        self.ffn_norm = nn.RMSNorm(dim, eps=eps)
        self.ffn = SwiGLU(dim, ffn_dim)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        layout: SegmentLayout,
        memory: LayerMemory | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Transform the tokens of all segments, Float[T D], or those at `places`, Float[M D]."""
        mixed = self.attention(as_factor(self.attention_norm(x)), cos, sin, layout, memory, places)
        x = mixed + (x if places is None else x[places])
        out: Tensor = x + self.ffn(as_factor(self.ffn_norm(x)))
        return out


class Transformer(Pretrained):
    """Bidirectional transformer: RMSNorm, rotary positions, grouped heads, SwiGLU.

    It has no time input: for masked diffusion the number of masks says the time.

    Args:
        vocab_size: Ids of the joint vocabulary.
        code_spans: `[start, num_codes, feature_dim]` of spans with code features; may be empty.
        dim: Width D, divisible by `num_heads`.
        num_layers: Blocks.
        num_heads: Query heads.
        num_kv_heads: Key-value heads, a divisor of `num_heads`.
        ffn_dim: Hidden width of SwiGLU.
        rope_theta: Base of the rotary frequencies.
        rope_sections: Frequencies for index, row and column; None for index only.
        qkv_bias: Biases on the three projections, as in Qwen2.5.
        qk_norm: Normalise queries and keys per head.
        tie_embeddings: Share the input and output tables.
        norm_eps: Of every RMSNorm.
        isolate_prompt: Given tokens see only given tokens, so a prompt is computed once for all
            steps of generation without loss. It must be trained so.
        is_shifted: The last block's output at position i - 1 scores token i, as in networks that
            grew out of autoregressive ones; a segment's first token is scored by its own position.
        continuous_dim: Width of continuous features that may stand in for embeddings; None for a
            model of tokens alone, which has no projector.
    """

    def __init__(
        self,
        vocab_size: int,
        code_spans: list[list[int]],
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        ffn_dim: int,
        rope_theta: float,
        rope_sections: list[int] | None,
        qkv_bias: bool,
        qk_norm: bool,
        tie_embeddings: bool,
        norm_eps: float = 1e-6,
        isolate_prompt: bool = False,
        is_shifted: bool = False,
        continuous_dim: int | None = None,
    ) -> None:
        super().__init__()
        if isolate_prompt and is_shifted:
            raise OmniError(
                "isolate_prompt and is_shifted are both set, but a prompt that is isolated cannot "
                "score the answer's first token; set one of them"
            )
        self.isolate_prompt, self.is_shifted = isolate_prompt, is_shifted
        self.recomputes = False
        if dim % num_heads or num_heads % num_kv_heads:
            raise OmniError(
                f"dim {dim} must be divisible by num_heads {num_heads}, and that by "
                f"num_kv_heads {num_kv_heads}"
            )
        self.embedding = OmniEmbedding(
            vocab_size, dim, code_spans=code_spans, tie_embeddings=tie_embeddings
        )
        self.rotary = RotaryAngles(dim // num_heads, theta=rope_theta, sections=rope_sections)
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            attention = GroupedQueryAttention(
                dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                norm_eps=norm_eps,
            )
            self.blocks.append(Block(dim, ffn_dim, attention, norm_eps))
        self.norm = nn.RMSNorm(dim, eps=norm_eps)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("_proj.weight"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("_proj.bias"):
                nn.init.zeros_(parameter)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5)
        self.feature_projector = (
            None if continuous_dim is None else FeatureProjector(continuous_dim, dim)
        )

    def recompute_activations(self) -> None:
        """Keep only the input of each block for the backward pass and compute the rest again.

        Source: arXiv:1604.06174.
        """
        self.recomputes = True

    def compile_pointwise(self) -> None:
        """Compile what lies between the matrix products: norms and the gated activation."""
        for block in self.blocks:
            assert isinstance(block, Block)  # noqa: S101
            for part in (block.attention_norm, block.ffn_norm, block.ffn):
                part.compile()

    def layout(
        self, lengths: list[int] | tuple[int, ...], is_open: Bool[Tensor, " T"]
    ) -> SegmentLayout:
        """Where segments of these lengths lie, for a pass in which some tokens are open."""
        layout = SegmentLayout.of(lengths, device=is_open.device)
        return layout.isolating(is_open) if self.isolate_prompt else layout

    def forward(
        self,
        ids: Int[Tensor, " T"],
        position_ids: Int[Tensor, "T 3"],
        layout: SegmentLayout,
        memory: Memory | None = None,
        places: Int[Tensor, " M"] | None = None,
        continuous: Continuous | None = None,
    ) -> Float[Tensor, "M D"]:
        """Final hidden states; `self.logits` turns those you need into scores.

        Row i scores token i, also of a shifted network, and nothing else knows of the shift.

        Args:
            ids: Tokens of all segments, one behind another.
            position_ids: Index, row and column of each.
            layout: Where the segments lie; `self.layout` makes it.
            memory: Keys and values to be remembered by this pass; once it is filled, `ids`,
                `position_ids` and `layout` are those of its live tokens.
            places: Which of the tokens' states are wanted, ascending; None for all. The last block
                computes no others, so that scores of few tokens cost less. Where prompts are
                isolated they must be open tokens.
            continuous: Features that stand in for the embeddings of some of the tokens.

        Raises:
            OmniError: If there are features and no projector of their width.
        """
        x = self._embed(ids, continuous)
        cos, sin = self.rotary(position_ids)
        scorer = layout.previous() if self.is_shifted else None
        if scorer is not None and places is not None:
            places, scorer = scorer[places], None
        remembered = memory.layers if memory is not None else [None] * len(self.blocks)
        recomputes = self.recomputes and torch.is_grad_enabled()
        for number, (block, layer) in enumerate(zip(self.blocks, remembered, strict=True), 1):
            wanted = places if number == len(self.blocks) else None
            if recomputes:
                x = checkpoint(block, x, cos, sin, layout, layer, wanted, use_reentrant=False)
            else:
                x = block(x, cos, sin, layout, layer, wanted)
        out: Tensor = self.norm(x)
        return out if scorer is None else out[scorer]

    def _embed(self, ids: Tensor, continuous: Continuous | None) -> Tensor:
        x = self.embedding.embed(ids)
        if self.feature_projector is not None:
            return self.feature_projector.overwrite(x, continuous)
        if continuous is not None:
            raise OmniError(
                "the batch holds continuous features but the backbone has no projector for them; "
                f"set continuous_dim: {continuous.features.shape[1]} in the recipe's backbone"
            )
        return x

    def logits(
        self, hidden: Float[Tensor, "M D"], ids: Int[Tensor, " G"] | None = None
    ) -> Float[Tensor, "M G"]:
        """Scores of the ids given, or of the whole vocabulary; row i scores its own position."""
        return self.embedding.logits(hidden, ids)
