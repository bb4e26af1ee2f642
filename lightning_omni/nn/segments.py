"""Attention over packed segments; if it is bidirectional, without a dense L x L mask.

Tokens of all segments are concatenated, and `SegmentLayout` says where segments end.
`attention_backend` picks the kernel: flash-attn, else torch's varlen kernel on GPUs that have them;
elsewhere, and in float32, matrix products per segment. All are exact.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.nn.attention_mask import AttentionMask
from lightning_omni.nn.cpu import MAX_BF16_LENGTH, bf16_attention

log = logging.getLogger(__name__)

FLASH_CAPABILITY = (8, 0)
"""Oldest compute capability of the flash kernels: Ampere's."""
_FLASH_MODULES = {"flash_attn": "flash_attn", "varlen": "torch.nn.attention.varlen"}
"""Kernel: the module that has it; the first that is installed is used."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentLayout:
    """Lengths of the segments in a flat sequence of tokens.

    Kernels of GPUs take `cu_seqlens` and `max_length`, whose shape and value are the same for many
    batches; `lengths`, which the host loops over, differ from batch to batch.

    Attributes:
        cu_seqlens: Cumulative lengths, Int32[P + 1], on the device. Behind the N segments empty
            ones may follow.
        max_length: Length that no segment exceeds.
        num_segments: Number of segments, N.
        isolation: Split into fixed and maskable tokens if fixed ones must not attend to maskable
            ones; None if all tokens of a segment attend to each other.
        mask: Which tokens of a segment attend to which; None if all do.
    """

    cu_seqlens: Tensor
    max_length: int
    num_segments: int
    isolation: PromptIsolation | None = None
    mask: AttentionMask | None = None
    _lengths: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def from_lengths(
        cls, lengths: list[int] | tuple[int, ...], *, device: torch.device | str
    ) -> SegmentLayout:
        """Build the layout from lengths."""
        ends = torch.tensor((0, *lengths), dtype=torch.int64).cumsum(0).to(torch.int32)
        on_device = ends.to(device, non_blocking=True)
        return cls(on_device, max(lengths, default=0), len(lengths), _lengths=[tuple(lengths)])

    @classmethod
    def of_batch(
        cls, cu_seqlens: Tensor, lengths: tuple[int, ...], *, max_length: int
    ) -> SegmentLayout:
        """Build the layout from what a batch holds."""
        return cls(cu_seqlens, max_length, len(lengths), _lengths=[lengths])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each segment, in order; read from the device if need be."""
        if not self._lengths:
            ends = self.cu_seqlens[: self.num_segments + 1]
            self._lengths.append(tuple(ends.diff().tolist()))
        return self._lengths[0]

    def select(self, positions: Int[Tensor, " R"]) -> SegmentLayout:
        """Return the layout of a subset of the tokens.

        Args:
            positions: Ascending positions of the tokens to keep. A segment may become empty.
        """
        segment = torch.bucketize(positions, self.cu_seqlens[1:], right=True)
        counts = torch.zeros_like(self.cu_seqlens)
        counts.scatter_add_(0, segment + 1, torch.ones_like(segment, dtype=counts.dtype))
        ends = counts.cumsum(0, dtype=counts.dtype)
        mask = self.mask and self.mask.at(positions - self.cu_seqlens[segment])
        return SegmentLayout(ends, self.max_length, self.num_segments, mask=mask)

    def previous_positions(self, num_tokens: int) -> Int[Tensor, " T"]:
        """Return the position before each of T tokens; for the first of a segment, its own."""
        device = self.cu_seqlens.device
        is_first = torch.zeros(num_tokens + 1, dtype=torch.int64, device=device)
        is_first.index_fill_(0, self.cu_seqlens[:-1].long(), 1)  # empty ones begin with the next
        return torch.arange(num_tokens, device=device) - 1 + is_first[:-1]

    def with_isolated_prompt(
        self, is_maskable: Bool[Tensor, " T"], num_maskable: int | None = None
    ) -> SegmentLayout:
        """Return the same segments, in which fixed tokens do not attend to maskable ones.

        Args:
            is_maskable: True for tokens of responses.
            num_maskable: Their number, if it is known; else a GPU is waited for.
        """
        if num_maskable is None:
            num_maskable = int(is_maskable.sum())
        counts = len(is_maskable) - num_maskable, num_maskable
        fixed, maskable = (
            torch.nonzero_static(chosen, size=count).squeeze(1)
            for chosen, count in zip((~is_maskable, is_maskable), counts, strict=True)
        )
        order = torch.cat((fixed, maskable))
        row = torch.empty_like(order)
        row[order] = torch.arange(len(row), device=row.device)
        isolation = PromptIsolation(fixed, maskable, row, self.select(fixed), self.select(maskable))
        return replace(self, isolation=isolation)


@dataclass(frozen=True, slots=True)
class PromptIsolation:
    """Split of the tokens into fixed ones (the prompt) and maskable ones (the response).

    Fixed tokens attend to fixed tokens only. Their states then do not depend on the response, so
    their keys and values can be cached across denoising steps without approximation.

    Attributes:
        fixed: Positions of fixed tokens, Int[T - R].
        maskable: Positions of maskable tokens, Int[R].
        row: Index of each token in `fixed` followed by `maskable`, Int[T].
        fixed_layout: Segments of the fixed tokens.
        maskable_layout: Segments of the maskable tokens.
    """

    fixed: Tensor
    maskable: Tensor
    row: Tensor
    fixed_layout: SegmentLayout
    maskable_layout: SegmentLayout


@functools.cache
def attention_backend(device_type: str) -> str:
    """Return the kernel for half precision on a device, and log it once.

    It is `flash_attn` or `varlen`, whichever is installed first in this order, on GPUs with the
    instructions of these kernels, and `sdpa` elsewhere. See `attention_kernel` for other formats.
    """
    backend = "sdpa"
    if device_type == "cuda" and torch.cuda.get_device_capability() >= FLASH_CAPABILITY:
        installed = (n for n, module in _FLASH_MODULES.items() if importlib.util.find_spec(module))
        backend = next(installed, backend)
    log.info("attention backend on %s: %s", device_type, backend)
    return backend


def attention_kernel(device_type: str, dtype: torch.dtype, longest: int = 0) -> str:
    """Return the kernel that attends in a number format on a device.

    In half precision it is `attention_backend`'s; `bf16_attention` in bfloat16 on CPUs, where
    calls with segments of more than `MAX_BF16_LENGTH` keys are widened for `sdpa`; `sdpa` in
    other formats.

    Args:
        device_type: `cpu`, `cuda` or another torch device type.
        dtype: Format of queries, keys and values.
        longest: Keys of the longest segment of the call.
    """
    backend = choose_backend(device_type)
    if backend != "sdpa" and dtype in (torch.float16, torch.bfloat16):
        return backend
    is_cpus = device_type == "cpu" and dtype is torch.bfloat16 and longest <= MAX_BF16_LENGTH
    return bf16_attention.__name__ if is_cpus else "sdpa"


def longest_segment_lengths(layout: SegmentLayout, key_layout: SegmentLayout) -> list[int]:
    """Return the keys of the longest segment in each call that `segment_attention` makes."""
    called = [key_layout]
    if layout.isolation is not None and len(layout.isolation.fixed):
        called.append(layout.isolation.fixed_layout)
    return [max(each.lengths, default=0) for each in called]


def segment_attention(
    query: Float[Tensor, "R H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    layout: SegmentLayout,
    key_layout: SegmentLayout | None = None,
) -> Float[Tensor, "R H K"]:
    """Attend within each segment only; G key-value heads serve H query heads.

    Args:
        query: Queries of R tokens.
        key: Keys of T tokens.
        value: Values of the same T tokens.
        layout: Segments of the R tokens.
        key_layout: Segments of the T tokens; None if they are the same tokens.
    """
    key_layout = key_layout or layout
    if layout.mask is not None:
        return _attend_with_sdpa(query, key, value, layout, key_layout)
    if layout.isolation is not None:
        return _attend_with_isolated_prompt(query, key, value, layout.isolation, key_layout)
    return _attend(query, key, value, layout, key_layout)


def _attend_with_isolated_prompt(
    query: Tensor, key: Tensor, value: Tensor, split: PromptIsolation, layout: SegmentLayout
) -> Tensor:
    """Let fixed tokens attend to fixed ones, and maskable tokens to all."""
    mixed = []
    for positions, query_layout, key_layout in (
        (split.fixed, split.fixed_layout, split.fixed_layout),
        (split.maskable, split.maskable_layout, layout),
    ):
        if len(positions):
            sees_all = key_layout is layout
            k, v = (key, value) if sees_all else (key[positions], value[positions])
            mixed.append(_attend(query[positions], k, v, query_layout, key_layout))
    return torch.cat(mixed)[split.row]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Attend with the kernel of the device."""
    kind, dtype = query.device.type, query.dtype
    kernel = attention_kernel(kind, dtype)
    if kernel == bf16_attention.__name__:  # depends on lengths, which other kernels do not read
        kernel = attention_kernel(kind, dtype, max(key_layout.lengths, default=0))
    return _KERNELS[kernel](query, key, value, layout, key_layout)


def _attend_in_bf16(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Attend on a CPU in bfloat16."""
    return bf16_attention(query, key, value, layout.lengths, key_layout.lengths)


def _attend_with_sdpa(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Attend segment by segment; in bfloat16 on a CPU in float32, which is 4 times as fast."""
    if query.device.type != "cpu" or query.dtype is not torch.bfloat16:
        return _attend_per_segment(query, key, value, layout, key_layout)
    with torch.autocast("cpu", enabled=False):
        query, key, value = (x.float() for x in (query, key, value))
        return _attend_per_segment(query, key, value, layout, key_layout).to(torch.bfloat16)


def _attend_per_segment(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Attend segment by segment."""
    key, value = _repeat_key_value_heads(query, key, value)
    lengths, key_lengths = layout.lengths, key_layout.lengths
    if layout.mask is None and len(set(lengths)) == len(set(key_lengths)) == 1:
        return _attend_equal_segments(query, key, value, layout, key_layout)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    q_parts = torch.split(q, list(lengths), 2)
    k_parts, v_parts = (torch.split(x, list(key_lengths), 2) for x in (k, v))
    masks: Iterable[Tensor | None] = repeat(None)
    if layout.mask is not None:
        masks = layout.mask.of_segments(lengths, key_lengths)
    parts = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        for q, k, v, visible in zip(q_parts, k_parts, v_parts, masks, strict=False)
    ]
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)


def _attend_equal_segments(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Attend in segments of equal length as one batch."""
    q = query.reshape(len(layout.lengths), -1, *query.shape[1:]).transpose(1, 2)
    shape = len(key_layout.lengths), -1, *key.shape[1:]
    k, v = (x.reshape(shape).transpose(1, 2) for x in (key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape)


def _attend_with_flash(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    arguments = _varlen_arguments(layout, key_layout)
    out: Tensor = flash_attn_varlen_func(query, key, value, *arguments, dropout_p=0.0, causal=False)
    return out


def _attend_with_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    arguments = _varlen_arguments(layout, key_layout)
    # Told only where it is so: given it, torch 2.14 never attends by cuDNN in the forward pass, but
    # for as many heads of keys does in the backward pass, which takes other intermediate results.
    if varlen_takes_enable_gqa() and key.shape[1] != query.shape[1]:
        out = varlen_attn(query, key, value, *arguments, enable_gqa=True)
    else:
        out = varlen_attn(query, key, value, *arguments)
    return out if isinstance(out, Tensor) else out[0]


@functools.cache
def _parameter_names(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)


def _varlen_arguments(
    layout: SegmentLayout, key_layout: SegmentLayout
) -> tuple[Tensor, Tensor, int, int]:
    """Return cumulative and maximal lengths in the order of variable-length kernels."""
    return layout.cu_seqlens, key_layout.cu_seqlens, layout.max_length, key_layout.max_length


def _repeat_key_value_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat every key-value head once per query head that it serves.

    `scaled_dot_product_attention` takes fewer ones, but its fused kernels for float32 do not: the
    CPU's, and the memory-efficient one of GPUs.
    """
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)


_KERNELS = {
    "flash_attn": _attend_with_flash,
    "varlen": _attend_with_varlen,
    bf16_attention.__name__: _attend_in_bf16,
    "sdpa": _attend_with_sdpa,
}
"""What `attention_kernel` names."""


def choose_backend(device_type: str) -> str:
    """Return `attention_backend`'s choice."""
    return attention_backend(device_type)


def varlen_takes_enable_gqa() -> bool:
    """Whether torch's kernel is told that there are fewer key-value heads; 2.11's needs not be."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in _parameter_names(varlen_attn)


KERNEL_CHOICES = (choose_backend, varlen_takes_enable_gqa)
"""What a compiler takes for constant; it would follow functions with a cache, without the cache."""
