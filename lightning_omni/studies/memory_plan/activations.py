"""Bytes that a pass keeps for its backward pass, and what its loss takes on top.

Counted from what our layers save, in the formats that autocast gives them.
"""

from __future__ import annotations

from lightning_omni.diffusion.objective import rows_at_once, scores_at_once
from lightning_omni.nn.cpu import MAX_BF16_LENGTH
from lightning_omni.nn.transformer import Block, Transformer
from lightning_omni.studies.memory_plan.load import Load

_EXACT = 4  # bytes of float32: norms, softmax and the residual stream under autocast


def block_inputs(network: Transformer, load: Load) -> int:
    """The inputs of all blocks, and what the last norm keeps."""
    num_states = len(network.blocks) + _kept_by_norm(load)
    return num_states * load.tokens * _width(network) * _stream(load)


def block_insides(network: Transformer, load: Load) -> int:
    """What one block keeps besides its input."""
    block = network.blocks[0]
    assert isinstance(block, Block)  # noqa: S101
    attention, width = block.attention, _width(network)
    keys = attention.num_kv_heads * attention.head_dim
    stream, product = _stream(load), load.products.itemsize
    if load.device == "cpu" and product < _EXACT:
        heads = width + 2 * keys + width  # our own kernel: query, key, value and output
        kept = _scores(attention.num_heads, load) * product
    else:
        heads = 3 * width + width  # keys and values repeated for every query head
        heads += width if load.device == "cpu" else 0  # output per segment, then as one
        kept = load.tokens * attention.num_heads * _EXACT
    ffn = 4 * block.ffn.gate_proj.out_features
    norms = 2 * _kept_by_norm(load) - 1  # the first one's input is the block's
    per_token = norms * width * stream + (2 * width + heads + ffn) * product
    return load.tokens * per_token + kept + _cast_weights(block, load)


def backward_bytes(network: Transformer, load: Load) -> int:
    """What the backward pass of a block holds beside what was kept."""
    block = network.blocks[0]
    assert isinstance(block, Block)  # noqa: S101
    ffn = 2 * block.ffn.gate_proj.out_features * load.products.itemsize
    return load.tokens * (ffn + 4 * _width(network) * _stream(load))


def loss_bytes(network: Transformer, load: Load) -> int:
    """Most that the loss holds at one time: gradients of its inputs and a chunk of scores."""
    width, num_ids = _width(network), network.embedding.tokens.num_embeddings
    product, exact = load.products.itemsize, max(_EXACT, load.products.itemsize)
    chunk = min(load.masked, rows_at_once(num_ids)) * num_ids
    is_cast = load.products != load.weights
    states = load.masked * width * (_stream(load) + product * (1 + is_cast))
    scores = chunk * product + 2 * min(chunk, scores_at_once(load.device)) * exact
    cast = num_ids * width * product if is_cast else 0
    has_features = len(network.embedding.spans) > 0
    table = num_ids * width * load.weights.itemsize
    gradient = num_ids * width * exact
    return states + has_features * table + gradient + max(cast + scores, table)


def _kept_by_norm(load: Load) -> int:
    """States that a norm keeps: its input, and on CPUs, where it is several operations, another."""
    return 2 if load.device == "cpu" else 1


def _scores(heads: int, load: Load) -> int:
    """Attention weights that our own kernel keeps."""
    short = [n for n in load.lengths if n <= MAX_BF16_LENGTH]
    return heads * sum(n * n for n in short)


def _cast_weights(block: Block, load: Load) -> int:
    """Copies of a block's matrices in the format of products."""
    if load.products == load.weights:
        return 0
    return sum(p.numel() for p in block.parameters() if p.ndim > 1) * load.products.itemsize


def _stream(load: Load) -> int:
    """Bytes of a number of the residual stream."""
    return load.weights.itemsize


def _width(network: Transformer) -> int:
    return network.norm.weight.numel()
