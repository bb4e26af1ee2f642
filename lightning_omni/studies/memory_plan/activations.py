"""Bytes that blocks keep for the backward pass."""

from __future__ import annotations

import torch
from torch import nn

from lightning_omni.nn.cpu import MAX_BF16_LENGTH
from lightning_omni.nn.transformer import Block, Transformer
from lightning_omni.studies.memory_plan.device_load import DeviceLoad

_FLOAT32 = 4  # bytes


def activation_bytes(network: Transformer, load: DeviceLoad) -> tuple[int, int]:
    """Return the bytes kept for the backward pass, and those that its first block adds.

    Kept are the input of each block, the final norm's, and of each block what `_kept_inside` adds
    up. Selective recomputation keeps the input and the results of products: query, key, value,
    attention, its output and the feed-forward layer's three. The first block of the backward pass
    adds what it recomputes.
    """
    block = network.blocks[0]
    assert isinstance(block, Block)  # noqa: S101
    width, ffn = network.norm.weight.numel(), block.ffn.gate_proj.out_features
    stream, product = load.stream_dtype.itemsize, load.products.itemsize
    states = len(network.blocks) * load.tokens + _norm_copies(load) * load.num_masked
    inputs = states * width * stream
    inside = _kept_inside(block, load, load.tokens)
    last = _kept_inside(block, load, load.num_masked)  # queries at positions with a loss only
    backward = load.tokens * (2 * ffn * product + 4 * width * stream)
    if load.recomputation == "full":
        return inputs, backward + inside
    num_full = len(network.blocks) - 1
    if load.recomputation == "selective":
        attention = block.attention
        query, key = attention.q_proj.out_features, attention.k_proj.out_features
        by_token, by_query = 2 * key, 2 * query + 2 * width + 2 * ffn
        kept = (num_full * load.tokens + load.num_masked) * by_query
        kept += len(network.blocks) * load.tokens * by_token
        again = inside - load.tokens * (width + 2 * ffn) * product
        return inputs + kept * product, backward + again
    return inputs + num_full * inside + last, backward


def _kept_inside(block: Block, load: DeviceLoad, queries: int) -> int:
    """Return the bytes that a block keeps beside its input.

    By token: the first norm's output, keys and values. By query: query, attention's output, the
    second norm's input and output, and four of the feed-forward width. Norms on CPUs are several
    operations and keep their input divided by its scale, too; norms of queries and keys keep these
    in float32. Under autocast also the cast matrices, and the input of each adapter.

    Args:
        block: Block.
        load: Work of the device.
        queries: Number of tokens at which queries are computed.
    """
    attention = block.attention
    width, ffn = block.attention_norm.weight.numel(), block.ffn.gate_proj.out_features
    query, key = attention.q_proj.out_features, attention.k_proj.out_features
    stream, product = load.stream_dtype.itemsize, load.products.itemsize
    copies = _norm_copies(load)
    is_wide = load.products == torch.float32 or _is_widened(load)
    attended = _FLOAT32 if is_wide else product
    by_token = width * product + (copies - 1) * width * stream
    by_token += 2 * (query if is_wide else key) * attended  # repeated for the wide kernels
    by_query = query * attended + query * product + is_wide * query * attended
    by_query += copies * width * stream + width * product + 4 * ffn * product
    if attention.q_norm is not None:
        by_token += copies * key * _FLOAT32
        by_query += copies * query * _FLOAT32
    if queries != load.tokens:
        by_query += width * product
    kept = load.tokens * by_token + queries * by_query
    if load.device == "cpu" and not is_wide:  # attention weights
        pairs = sum(n * n for n in load.segment_lengths) * queries // load.tokens
        kept += attention.num_heads * pairs * product
    if load.products != load.stream_dtype:
        kept += sum(p.numel() for p in block.parameters() if p.ndim > 1) * product
        kept += queries * _adapted_widths(block) * product
    return int(kept)


def _norm_copies(load: DeviceLoad) -> int:
    """Return how many tensors of its input's size a norm keeps, the input included."""
    return 2 if load.device == "cpu" else 1


def _is_widened(load: DeviceLoad) -> bool:
    """Tell whether attention in half precision computes in float32: long segments on a CPU."""
    return load.device == "cpu" and max(load.segment_lengths) > MAX_BF16_LENGTH


def _adapted_widths(block: nn.Module) -> int:
    """Return the sum of the widths of the inputs of layers with adapters."""
    return sum(m.in_features for m in block.modules() if hasattr(m, "lora_A"))  # type: ignore[misc]
