"""The workload: a network, and samples of mixed lengths with masked answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lightning_omni.nn.flops import training_flops
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network and of the batch.

    Attributes:
        dim: Width; heads have 64 channels, and groups of three query heads share a key-value head
            if their number allows.
        num_layers: Number of blocks.
        vocab_size: Number of ids; the last is the mask token.
        tokens: Tokens per batch, B * L.
        shortest: Tokens of the shortest sample.
        longest: Tokens of the longest sample.
        recomputes: Keep only the inputs of blocks for the backward pass.
        compiles: Compile pointwise operations.
        device: Device of network and samples.
    """

    dim: int = 384
    num_layers: int = 6
    vocab_size: int = 20_000
    tokens: int = 2048
    shortest: int = 40
    longest: int = 400
    recomputes: bool = False
    compiles: bool = False
    device: str = "cpu"

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""
        return self.vocab_size - 1


def make_network(shape: Shape, *, seed: int, isolate_prompt: bool = False) -> Transformer:
    """Return a network of Qwen2's architecture with random weights."""
    torch.manual_seed(seed)
    heads = max(1, shape.dim // 64)
    network = Transformer(
        shape.vocab_size,
        [],
        dim=shape.dim,
        num_layers=shape.num_layers,
        num_heads=heads,
        num_kv_heads=heads // 3 if heads % 3 == 0 else heads,
        ffn_dim=shape.dim * 8 // 3,
        rope_theta=1e4,
        rope_sections=None,
        qkv_bias=True,
        qk_norm=False,
        tie_embeddings=False,
        isolate_prompt=isolate_prompt,
    )
    if shape.recomputes:
        network.recompute_activations()
    if shape.compiles:
        network.compile_pointwise()
    return network.to(shape.device)


def make_position_ids(lengths: list[int], *, device: torch.device | str) -> Tensor:
    """Return position ids that start from 0 in each segment, Int[T 3]."""
    index = torch.cat([torch.arange(n) for n in lengths]).to(device)
    return torch.stack((index, index * 0, index * 0), dim=1)


@dataclass(frozen=True, slots=True)
class Samples:
    """Packed samples with masked answers.

    Attributes:
        lengths: Tokens per sample.
        x0: True ids, Int[T].
        x_t: Ids with masks, Int[T].
        masked: Positions of the masks, Int[M].
    """

    lengths: list[int]
    x0: Tensor
    x_t: Tensor
    masked: Tensor

    @property
    def segment_layout(self) -> SegmentLayout:
        """Segments of the samples."""
        return SegmentLayout.from_lengths(self.lengths, device=self.x0.device)


def make_samples(shape: Shape, *, rng: Generator) -> Samples:
    """Draw samples of `shortest` to `longest` tokens until the batch is full.

    The second half of each sample is its answer, in which each token is masked with probability
    1/2, the mean of a linear schedule.
    """
    lengths: list[int] = []
    while (room := shape.tokens - sum(lengths)) >= shape.shortest:
        drawn = torch.randint(shape.shortest, shape.longest + 1, (), generator=rng).item()
        rest = room - int(drawn)
        lengths.append(int(drawn) if rest >= shape.shortest or rest == 0 else room)
    x0 = torch.randint(0, shape.mask_token_id, (sum(lengths),), generator=rng)
    is_answer = torch.cat([torch.arange(n) >= n // 2 for n in lengths])
    is_masked = is_answer & (torch.rand(len(x0), generator=rng) < 0.5)
    x_t = x0.masked_fill(is_masked, shape.mask_token_id)
    masked = is_masked.nonzero().squeeze(1)
    return Samples(lengths, *(x.to(shape.device) for x in (x0, x_t, masked)))


def count_useful_gflop(network: Transformer, samples: Samples) -> float:
    """Return the arithmetic of a training step without padding, in GFLOP."""
    return training_flops(network, samples.lengths, len(samples.masked)) / 1e9
