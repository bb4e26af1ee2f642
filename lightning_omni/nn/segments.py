"""Bidirectional attention over packed segments, without a dense L x L mask.

`SegmentLayout` says where segments lie in a flat run of tokens; `segment_attention` picks the
kernel: flash-attn, then torch's varlen kernel on CUDA, and products per segment elsewhere. All of
them are exact.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.nn.cpu import LONGEST, half_attention

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """Segment lengths of a flat run of tokens, in order.

    `lengths` steers loops on the host; `cu_seqlens` (Int32[N + 1], on the device) steers kernels.
    With an `isolation` given tokens do not see open ones.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor
    isolation: Isolation | None = None

    @classmethod
    def of(
        cls, lengths: list[int] | tuple[int, ...], *, device: torch.device | str
    ) -> SegmentLayout:
        """Build the layout from lengths."""
        ends = torch.tensor((0, *lengths), dtype=torch.int64).cumsum(0)
        return cls(tuple(lengths), ends.to(torch.int32).to(device))

    @property
    def max_length(self) -> int:
        """Length of the longest segment."""
        return max(self.lengths)

    def of_some(self, places: Int[Tensor, " R"]) -> SegmentLayout:
        """Where the segments lie among some of the tokens; `places` ascend."""
        segment = torch.bucketize(places, self.cu_seqlens[1:], right=True)
        counts = segment.bincount(minlength=len(self.lengths)).tolist()
        return SegmentLayout.of(counts, device=places.device)

    def previous(self) -> Int[Tensor, " T"]:
        """Place of the token before each in its segment; a first token's is its own."""
        is_first = torch.zeros(sum(self.lengths), dtype=torch.int64, device=self.cu_seqlens.device)
        is_first[self.cu_seqlens[:-1][self.cu_seqlens.diff() > 0]] = 1
        return torch.arange(len(is_first), device=is_first.device) - 1 + is_first

    def isolating(self, is_open: Bool[Tensor, " T"]) -> SegmentLayout:
        """The same segments, in which tokens that are not open see only their like."""
        given, open_ = (~is_open).nonzero().squeeze(1), is_open.nonzero().squeeze(1)
        row = torch.empty_like(torch.cat((given, open_)))
        row[torch.cat((given, open_))] = torch.arange(len(row), device=row.device)
        isolation = Isolation(given, open_, row, self.of_some(given), self.of_some(open_))
        return replace(self, isolation=isolation)


@dataclass(frozen=True, slots=True)
class Isolation:
    """Given tokens of all segments, and open ones.

    A network that is trained so never changes what a given token is by what is filled in, so its
    keys and values can be kept from step to step without loss.

    Attributes:
        given: Places of given tokens, Int[T - R].
        open: Places of open tokens, Int[R].
        row: Where each token stands in `given` followed by `open`, Int[T].
        given_layout: Where the segments lie among given tokens.
        open_layout: The same among open ones.
    """

    given: Tensor
    open: Tensor
    row: Tensor
    given_layout: SegmentLayout
    open_layout: SegmentLayout


@functools.cache
def attention_backend(device_type: str) -> str:
    """Name the kernel used on a device: `flash_attn`, `varlen` or `sdpa`; logged once."""
    backend = "sdpa"
    if device_type == "cuda":  # pragma: no cover
        if importlib.util.find_spec("flash_attn") is not None:
            backend = "flash_attn"
        elif importlib.util.find_spec("torch.nn.attention.varlen") is not None:
            backend = "varlen"
    log.info("attention backend on %s: %s", device_type, backend)
    return backend


def segment_attention(
    query: Float[Tensor, "R H K"],
    key: Float[Tensor, "T G K"],
    value: Float[Tensor, "T G K"],
    layout: SegmentLayout,
    key_layout: SegmentLayout | None = None,
) -> Float[Tensor, "R H K"]:
    """Attend within each segment only; G key-value heads serve H query heads.

    Args:
        query: Of the tokens that ask.
        key: Of the tokens that answer.
        value: Of the same.
        layout: Where the segments lie among the tokens that ask.
        key_layout: The same among those that answer; None if they are the same tokens.
    """
    key_layout = key_layout or layout
    if layout.isolation is not None:
        return _isolated(query, key, value, layout.isolation, key_layout)
    return _attend(query, key, value, layout, key_layout)


def _isolated(
    query: Tensor, key: Tensor, value: Tensor, parts: Isolation, layout: SegmentLayout
) -> Tensor:
    """Given tokens among themselves, open ones to all."""
    mixed = []
    for places, own, asked in (
        (parts.given, parts.given_layout, parts.given_layout),
        (parts.open, parts.open_layout, layout),
    ):
        if len(places):
            k, v = (key, value) if asked is layout else (key[places], value[places])
            mixed.append(_attend(query[places], k, v, own, asked))
    return torch.cat(mixed)[parts.row]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Pick the kernel."""
    backend = attention_backend(query.device.type)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if backend == "flash_attn" and half:  # pragma: no cover
        return _flash(query, key, value, layout, key_layout)
    if backend == "varlen" and half:  # pragma: no cover
        return _varlen(query, key, value, layout, key_layout)
    return _per_segment(query, key, value, layout, key_layout)


def _per_segment(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Products per segment; long ones in bfloat16 are widened, as that kernel is 4 times slower."""
    if query.device.type == "cpu" and query.dtype is torch.bfloat16:
        if max(layout.max_length, key_layout.max_length) <= LONGEST:
            return half_attention(query, key, value, layout.lengths, key_layout.lengths)
        with torch.autocast("cpu", enabled=False):
            query, key, value = (x.float() for x in (query, key, value))
            return _per_segment(query, key, value, layout, key_layout).to(torch.bfloat16)
    key, value = _one_per_query_head(query, key, value)
    if len(set(layout.lengths)) == len(set(key_layout.lengths)) == 1:
        return _all_at_once(query, key, value, layout, key_layout)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    q_parts = torch.split(q, list(layout.lengths), 2)
    k_parts, v_parts = (torch.split(x, list(key_layout.lengths), 2) for x in (k, v))
    parts = [
        F.scaled_dot_product_attention(*qkv) for qkv in zip(q_parts, k_parts, v_parts, strict=True)
    ]
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)


def _all_at_once(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    """Segments of one length are a batch."""
    q = query.reshape(len(layout.lengths), -1, *query.shape[1:]).transpose(1, 2)
    shape = len(key_layout.lengths), -1, *key.shape[1:]
    k, v = (x.reshape(shape).transpose(1, 2) for x in (key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    extents = _extents(layout, key_layout)
    out: Tensor = flash_attn_varlen_func(query, key, value, *extents, dropout_p=0.0, causal=False)
    return out


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, key_layout: SegmentLayout
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    key, value = _one_per_query_head(query, key, value)
    out = varlen_attn(query, key, value, *_extents(layout, key_layout))
    return out if isinstance(out, Tensor) else out[0]


def _extents(layout: SegmentLayout, key_layout: SegmentLayout) -> tuple[Tensor, Tensor, int, int]:
    """Where segments begin and how long the longest is, as variable-length kernels take it."""
    return layout.cu_seqlens, key_layout.cu_seqlens, layout.max_length, key_layout.max_length


def _one_per_query_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the key-value heads that groups of query heads share."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
