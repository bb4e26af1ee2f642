"""The arithmetic of a training step."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_omni.nn.transformer import Transformer


def training_flops(network: Transformer, lengths: Iterable[int], masked: int) -> int:
    """Products that a step needs: of tokens that carry something, forwards and for both gradients.

    6 per weight of the blocks and token; 12 per pair of tokens of a segment, channel and block; the
    head at the masked positions only.

    Args:
        network: May be on the meta device.
        lengths: Tokens of each segment.
        masked: Positions that have a loss.
    """
    lengths = list(lengths)
    in_blocks = sum(p.numel() for p in network.blocks.parameters() if p.ndim > 1)
    table = network.embedding.head.weight
    attention = 12 * sum(n * n for n in lengths) * table.shape[1] * len(network.blocks)
    return 6 * in_blocks * sum(lengths) + attention + 6 * masked * table.numel()
