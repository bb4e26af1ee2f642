"""Floating-point operations of a training step."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightning_omni.nn.transformer import Block, Transformer

_PEAKS = {r"\b(H100|H200)\b(?!.*(PCIe|NVL|MIG))": 989.4e12, r"\bA100\b(?!.*MIG)": 312e12}


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 operations per second of a GPU by its datasheet; None if unknown.

    H100 and H200 are those of SXM boards; slower ones, and parts of a GPU, are unknown.

    Args:
        device_name: Name as `torch.cuda.get_device_name` gives it.

    Source: NVIDIA's datasheets of the A100, H100 and H200.
    """
    return next((peak for name, peak in _PEAKS.items() if re.search(name, device_name)), None)


def training_flops(network: Transformer, lengths: Iterable[int], num_masked: int) -> int:
    """Count the operations of forward and backward pass, excluding padding and recomputation.

    The sum of `block_flops` and 6 operations per weight of the head and masked position.

    Args:
        network: Transformer; may be on the meta device.
        lengths: Number of tokens of each segment.
        num_masked: Number of positions with a loss, spread evenly over the segments.
    """
    head = 6 * num_masked * network.embedding.head.weight.numel()
    return block_flops(network, lengths, num_masked) + head


def block_flops(network: Transformer, lengths: Iterable[int], num_masked: int) -> int:
    """Count the operations of the blocks: 6 per weight and token, 12 per token pair and channel.

    The last block computes queries only at positions with a loss; only its keys and values are
    computed for all tokens.

    Args:
        network: Transformer; may be on the meta device.
        lengths: Number of tokens of each segment.
        num_masked: Number of positions with a loss, spread evenly over the segments.
    """
    lengths = list(lengths)
    tokens, num_full = sum(lengths), len(network.blocks) - 1
    block = network.blocks[-1]
    assert isinstance(block, Block)  # noqa: S101
    weights = sum(p.numel() for p in block.parameters() if p.ndim > 1)
    key_value = sum(x.weight.numel() for x in (block.attention.k_proj, block.attention.v_proj))
    products = tokens * (num_full * weights + key_value) + num_masked * (weights - key_value)
    pairs = sum(n * n for n in lengths)
    attended = num_full * pairs + pairs * num_masked // tokens
    channels = block.attention.num_heads * block.attention.head_dim
    return 6 * products + 12 * attended * channels
