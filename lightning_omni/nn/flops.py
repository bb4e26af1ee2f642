"""The arithmetic of a training step."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_omni.nn.transformer import Block, Transformer


def training_flops(network: Transformer, lengths: Iterable[int], masked: int) -> int:
    """Products that a step needs: of tokens that carry something, forwards and for both gradients.

    Those of the blocks, and 6 per weight of the head and masked position.

    Args:
        network: May be on the meta device.
        lengths: Tokens of each segment.
        masked: Positions that have a loss, evenly among the segments.
    """
    head = 6 * masked * network.embedding.head.weight.numel()
    return block_flops(network, lengths, masked) + head


def block_flops(network: Transformer, lengths: Iterable[int], masked: int) -> int:
    """The blocks' part: 6 per weight and token, 12 per pair of tokens of a segment and channel.

    In the last block only positions that have a loss ask, so only keys and values take all tokens.
    """
    lengths = list(lengths)
    tokens, before = sum(lengths), len(network.blocks) - 1
    block = network.blocks[-1]
    assert isinstance(block, Block)  # noqa: S101
    weights = sum(p.numel() for p in block.parameters() if p.ndim > 1)
    answering = sum(x.weight.numel() for x in (block.attention.k_proj, block.attention.v_proj))
    products = tokens * (before * weights + answering) + masked * (weights - answering)
    pairs = sum(n * n for n in lengths)
    asked = before * pairs + pairs * masked // tokens
    return 6 * products + 12 * asked * network.norm.weight.numel()
