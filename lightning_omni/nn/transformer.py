"""The backbone: a transformer over packed segments of joint-vocabulary ids."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_omni.errors import OmniError
from lightning_omni.nn.attention import GroupedQueryAttention, LayerKVCache, Queries
from lightning_omni.nn.attention_mask import causal_mask
from lightning_omni.nn.cpu import to_autocast_dtype
from lightning_omni.nn.embedding import OmniEmbedding
from lightning_omni.nn.feature_projector import FeatureProjector
from lightning_omni.nn.kv_cache import KVCache
from lightning_omni.nn.norm import RMSNorm
from lightning_omni.nn.recomputation import Recomputation, checkpoint_arguments
from lightning_omni.nn.rotary import RotaryEmbedding
from lightning_omni.nn.segments import KERNEL_CHOICES, SegmentLayout
from lightning_omni.pretrained import Pretrained
from lightning_omni.types import Batch, ContinuousFeatures


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
        self.attention_norm = RMSNorm(dim, eps=eps)
        self.attention = attention
        self.ffn_norm = RMSNorm(dim, eps=eps)
        self.ffn = SwiGLU(dim, ffn_dim)
        self.recomputation: Recomputation = "none"

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        layout: SegmentLayout,
        cache: LayerKVCache | None = None,
        queries: Queries | None = None,
    ) -> Tensor:
        """Transform all tokens, Float[T D], or only those of `queries`, Float[M D]."""
        if self.recomputation == "none" or not torch.is_grad_enabled():
            return self._transform(x, cos, sin, layout, cache, queries)
        # in here and not around the block, so that a compiler sees what is kept
        arguments = checkpoint_arguments(self.recomputation)
        out: Tensor = checkpoint(self._transform, x, cos, sin, layout, cache, queries, **arguments)
        return out

    def _transform(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        layout: SegmentLayout,
        cache: LayerKVCache | None,
        queries: Queries | None,
    ) -> Tensor:
        normed = to_autocast_dtype(self.attention_norm(x))
        mixed = self.attention(normed, cos, sin, layout, cache, queries)
        x = mixed + (x if queries is None else x[queries.positions])
        out: Tensor = x + self.ffn(to_autocast_dtype(self.ffn_norm(x)))
        return out


class Transformer(Pretrained):
    """Bidirectional transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    It has no time input: in masked diffusion the share of masked tokens determines the time.

    Args:
        vocab_size: Number of ids in the joint vocabulary.
        code_spans: `[start, num_codes, feature_dim]` of each span of codes with codebook
            embeddings; may be empty.
        dim: Width D, divisible by `num_heads` unless `head_dim` is given.
        num_layers: Number of blocks.
        num_heads: Number of query heads.
        num_kv_heads: Number of key-value heads, a divisor of `num_heads`.
        ffn_dim: Hidden width of SwiGLU.
        rope_theta: Base of the rotary frequencies.
        rope_sections: Number of frequencies for index, row and column; None for index only.
        qkv_bias: Add biases to the query, key and value projections, as in Qwen2.5.
        qk_norm: Apply RMSNorm to queries and keys per head.
        tie_embeddings: Share the input and output tables.
        norm_eps: Epsilon of every RMSNorm.
        isolate_prompt: The prompt does not attend to the response, so its states are computed once
            for all denoising steps without approximation. The model must be trained this way.
            Experimental.
        right_shift_logits: Take the logits of token i from the output at position i - 1, as in
            networks adapted from autoregressive ones (Dream); the first token of a segment is
            scored at its own position.
        continuous_dim: Width of continuous features that may replace embeddings; None builds no
            projector.
        head_dim: Size of an attention head; None for `dim / num_heads`.
        is_causal: Tokens attend to themselves and to those before them only, as next-token models
            do. For their evaluation and training; needs `right_shift_logits`.

    Raises:
        OmniError: If `right_shift_logits` is set with `isolate_prompt` or missing with `is_causal`,
            or widths and heads do not divide.
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
        right_shift_logits: bool = False,
        continuous_dim: int | None = None,
        head_dim: int | None = None,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        _check_attention(isolate_prompt, right_shift_logits, is_causal)
        self.isolate_prompt, self.right_shift_logits = isolate_prompt, right_shift_logits
        self.is_causal = is_causal
        self.recomputation: Recomputation = "none"
        self.compiles_blocks = False
        if (head_dim is None and dim % num_heads) or num_heads % num_kv_heads:
            raise OmniError(
                f"dim {dim} must be divisible by num_heads {num_heads}, and that by "
                f"num_kv_heads {num_kv_heads}"
            )
        head_dim = dim // num_heads if head_dim is None else head_dim
        self.embedding = OmniEmbedding(
            vocab_size, dim, code_spans=code_spans, tie_embeddings=tie_embeddings
        )
        self.rotary = RotaryEmbedding(head_dim, theta=rope_theta, sections=rope_sections)
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            attention = GroupedQueryAttention(
                dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                norm_eps=norm_eps,
                head_dim=head_dim,
            )
            self.blocks.append(Block(dim, ffn_dim, attention, norm_eps))
        self.norm = RMSNorm(dim, eps=norm_eps)
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

    def recompute_activations(self, recomputation: Recomputation = "full") -> None:
        """Keep less of each block for the backward pass and recompute the rest.

        Args:
            recomputation: `full` keeps the inputs of blocks; `selective` keeps the results of
                matrix products and attention, too.

        Source: arXiv:1604.06174; selective, arXiv:2205.05198.
        """
        self.recomputation = recomputation
        for block in self.blocks:
            assert isinstance(block, Block)  # noqa: S101
            block.recomputation = recomputation

    def compile_pointwise(self) -> None:
        """Compile the pointwise operations between matrix products: norms and SwiGLU."""
        for block in self.blocks:
            assert isinstance(block, Block)  # noqa: S101
            for part in (block.attention_norm, block.ffn_norm, block.ffn):
                part.compile()

    def compile_blocks(self) -> None:
        """Compile every block whole, for attention kernels of GPUs.

        There are two graphs, one for the last block, whatever the batches hold. Hooks of modules,
        such as those that gather sharded weights, stay outside of them.
        """
        for choice in KERNEL_CHOICES:
            torch.compiler.assume_constant_result(choice)  # type: ignore[no-untyped-call]
        for block in self.blocks:
            block.forward = torch.compile(block.forward, fullgraph=True)
        self.compiles_blocks = True

    def segment_layout(
        self, lengths: list[int] | tuple[int, ...], is_maskable: Bool[Tensor, " T"]
    ) -> SegmentLayout:
        """Build the layout of a forward pass.

        Args:
            lengths: Number of tokens of each segment.
            is_maskable: True for response tokens that may be masked, False for the prompt and
                other fixed tokens.
        """
        layout = self._mask_layout(SegmentLayout.from_lengths(lengths, device=is_maskable.device))
        return layout.with_isolated_prompt(is_maskable) if self.isolate_prompt else layout

    def batch_layout(self, batch: Batch) -> SegmentLayout:
        """Build the layout of a packed batch, without waiting for a GPU that holds it."""
        layout = self._mask_layout(
            SegmentLayout.of_batch(batch.cu_seqlens, batch.lengths, max_length=batch.row_length)
        )
        if not self.isolate_prompt:
            return layout
        return layout.with_isolated_prompt(batch.maskable, batch.num_maskable)

    def _mask_layout(self, layout: SegmentLayout) -> SegmentLayout:
        if not self.is_causal:
            return layout
        longest = max(layout.lengths, default=0)
        return replace(layout, mask=causal_mask(longest, layout.cu_seqlens.device))

    def forward(
        self,
        ids: Int[Tensor, " T"],
        position_ids: Int[Tensor, "T 3"],
        layout: SegmentLayout,
        cache: KVCache | None = None,
        positions: Int[Tensor, " M"] | None = None,
        continuous: ContinuousFeatures | None = None,
    ) -> Float[Tensor, "M D"]:
        """Compute final hidden states; `logits` turns them into scores.

        Row i of the result scores token i, also with `right_shift_logits`: callers need not know.

        Args:
            ids: Tokens of all segments, concatenated.
            position_ids: Index, row and column of each token.
            layout: Segments of the tokens, from `segment_layout`.
            cache: Keys and values to fill or update. Once it is initialized, `ids`,
                `position_ids` and `layout` are those of its recomputed tokens.
            positions: Ascending positions of the states to return; None returns all. The last
                block computes queries only there; all tokens serve as keys and values. With
                `isolate_prompt` they must be maskable tokens.
            continuous: Features that replace the embeddings of some tokens.

        Raises:
            OmniError: If there are features but no projector of their width.
        """
        x = self._embed(ids, continuous)
        cos, sin = self.rotary(position_ids)
        shift = layout.previous_positions(len(ids)) if self.right_shift_logits else None
        if shift is not None and positions is not None:
            positions, shift = shift[positions], None
        queries = None if positions is None else self._queries(positions, layout)
        caches = cache.layers if cache is not None else [None] * len(self.blocks)
        for number, (block, layer) in enumerate(zip(self.blocks, caches, strict=True), 1):
            x = block(x, cos, sin, layout, layer, queries if number == len(self.blocks) else None)
        out: Tensor = self.norm(x)
        return out if shift is None else out[shift]

    def _queries(self, positions: Tensor, layout: SegmentLayout) -> Queries:
        """Return the queries of the last block."""
        is_compiled = getattr(self.blocks[-1], "_compiled_call_impl", None) is not None
        if self.compiles_blocks or is_compiled:  # one graph for all their numbers
            torch._dynamo.maybe_mark_dynamic(positions, 0)
        return Queries(positions, layout.select(positions))

    def _embed(self, ids: Tensor, continuous: ContinuousFeatures | None) -> Tensor:
        x = self.embedding.embed(ids)
        if self.feature_projector is not None:
            return self.feature_projector.overwrite(x, continuous)
        if continuous is not None:
            raise OmniError(
                "the batch contains continuous features but the backbone has no projector; "
                f"set continuous_dim: {continuous.features.shape[1]} in the recipe's backbone"
            )
        return x

    def logits(
        self, hidden: Float[Tensor, "M D"], ids: Int[Tensor, " G"] | None = None
    ) -> Float[Tensor, "M G"]:
        """Score `ids`, or the whole vocabulary if None; column j belongs to `ids[j]`."""
        return self.embedding.logits(hidden, ids)


def _check_attention(isolate_prompt: bool, right_shift_logits: bool, is_causal: bool) -> None:
    """Refuse settings of which one makes the other wrong."""
    if isolate_prompt and right_shift_logits:
        raise OmniError(
            "isolate_prompt and right_shift_logits are both set, but the last token of an "
            "isolated prompt cannot score the first token of the response; set only one"
        )
    if is_causal and not right_shift_logits:
        raise OmniError(
            "is_causal is set without right_shift_logits, but a token that sees itself cannot "
            "be predicted at its own position; set both"
        )
