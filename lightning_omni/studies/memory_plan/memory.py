"""Memory of one device: weights, gradients, optimizer states, activations, and their peak."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from lightning_omni.argument_checks import check_within
from lightning_omni.diffusion.objective import rows_at_once, scores_at_once
from lightning_omni.nn.recomputation import Recomputation
from lightning_omni.nn.transformer import Block, Transformer
from lightning_omni.optim.muon import AT_ONCE
from lightning_omni.optim.optimizer import decay_groups
from lightning_omni.studies.memory_plan.parameters import count_parameters

OptimizerKind = Literal["adamw", "fused_adamw", "muon"]
_FLOAT32 = 4  # bytes


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """Work of one device between two updates, and how its numbers are stored.

    Attributes:
        tokens: Tokens per batch, B * L.
        segment_length: Tokens per sample.
        masked_share: Share of tokens with a loss.
        weights: Format of weights, gradients and optimizer states.
        products: Format of matrix products.
        device: Device type; CPUs keep one state more for each norm.
        recomputation: What the backward pass recomputes: nothing, all but products, or blocks.
        accumulates: Gradients of earlier batches are in memory.
        optimizer: Optimizer.
        has_ema: Keep averaged weights.
        devices: Number of devices.
        is_sharded: Share weights, gradients and states among devices (FSDP).
    """

    tokens: int
    segment_length: int
    masked_share: float
    weights: torch.dtype = torch.float32
    products: torch.dtype = torch.float32
    device: Literal["cuda", "cpu"] = "cuda"
    recomputation: Recomputation = "none"
    accumulates: bool = False
    optimizer: OptimizerKind = "fused_adamw"
    has_ema: bool = False
    devices: int = 1
    is_sharded: bool = False

    def __post_init__(self) -> None:
        """Check the numbers that users set."""
        check_within("segment_length", self.segment_length, 1, self.tokens)
        check_within("masked_share", self.masked_share, 0, 1)

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens of each segment."""
        whole, rest = divmod(self.tokens, self.segment_length)
        return [self.segment_length] * whole + [rest] * (rest > 0)

    @property
    def num_masked(self) -> int:
        """Number of positions with a loss."""
        return round(self.tokens * self.masked_share)

    @property
    def num_shards(self) -> int:
        """Number of devices that share one copy of the model."""
        return self.devices if self.is_sharded else 1

    @property
    def stream_dtype(self) -> torch.dtype:
        """Format of the residual stream and of the weights a pass reads."""
        return self.products if self.is_sharded else self.weights


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        weights: Weights stored on this device.
        gradients: Their gradients.
        optimizer: Optimizer states.
        ema: Averaged weights.
        exchange: Weights gathered from other devices, gradients not yet shared out, or gradient
            buckets.
        activations: Tensors kept for the backward pass.
        loss: Largest temporary memory of the loss.
        peak: Largest sum at one time.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    exchange: int
    activations: int
    loss: int
    peak: int

    def in_gb(self) -> dict[str, float]:
        """Return all fields in 10^9 bytes."""
        return {name: value / 1e9 for name, value in asdict(self).items()}


def estimate_device_memory(network: Transformer, load: DeviceLoad) -> DeviceMemory:
    """Add up the memory of one device.

    The peak is at the loss, in the first block of the backward pass, or in the optimizer update.
    FSDP shares by block: the weights outside blocks stay gathered during a pass, and of the blocks
    the current and the next one; gradients of both kinds are whole before they are shared out.
    """
    weights = count_parameters(network) * load.weights.itemsize // load.num_shards
    optimizer = optimizer_bytes(network, load) // load.num_shards
    ema = weights if load.has_ema else 0
    block = count_parameters(network.blocks[0])
    root = count_parameters(network) - block * len(network.blocks)
    if load.is_sharded:
        gathered = (root + 2 * block) * load.products.itemsize
        early_gradients = (root + block) * load.products.itemsize
        exchange = gathered + (early_gradients if load.devices > 1 else 0)
    else:
        gathered = exchange = weights if load.devices > 1 else 0
        head = network.embedding.head.weight.numel() * load.weights.itemsize
        early_gradients = 0 if load.accumulates else head
    activations, backward = activation_bytes(network, load)
    loss = loss_bytes(network, load)
    during_pass = weights + optimizer + ema + gathered + (weights if load.accumulates else 0)
    peak = max(
        during_pass + activations + loss,
        during_pass + activations + early_gradients + backward,
        2 * weights + optimizer + ema + update_bytes(network, load),
    )
    return DeviceMemory(weights, weights, optimizer, ema, exchange, activations, loss, peak)


def optimizer_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the optimizer states of the whole model: two numbers per parameter.

    Muon keeps one number per element of a matrix.
    """
    num_muon = sum(p.numel() for p in _muon_matrices(network)) if load.optimizer == "muon" else 0
    return (2 * count_parameters(network) - num_muon) * load.weights.itemsize


def update_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the temporary memory of an update on one device.

    Muon stacks whole matrices of a shape, sharded ones too; AdamW that is not fused holds a
    temporary per parameter.
    """
    if load.optimizer == "fused_adamw":
        return 0
    if load.optimizer == "adamw":
        return count_parameters(network) * load.weights.itemsize // load.num_shards
    stacks = Counter(p.shape for p in _muon_matrices(network))
    return max(
        (
            min(n, AT_ONCE)
            * max(
                2 * shape.numel() * load.weights.itemsize,
                (5 * shape.numel() + 3 * min(shape) ** 2) * load.products.itemsize,
            )
            for shape, n in stacks.items()
        ),
        default=0,
    )


def activation_bytes(network: Transformer, load: DeviceLoad) -> tuple[int, int]:
    """Return the bytes kept for the backward pass, and those that its first block adds.

    A block keeps its input, its norms' inputs (F4 or the residual stream's format), six products
    of the model's width (norms' outputs, query, repeated key and value, output) and four of the
    feed-forward width, and casts of its matrices under autocast. Selective recomputation keeps the
    input and the results of products: query, key, value, attention, its output and the
    feed-forward layer's three. The first block of the backward pass adds what it recomputes.
    """
    block = network.blocks[0]
    assert isinstance(block, Block)  # noqa: S101
    width, ffn = network.norm.weight.numel(), block.ffn.gate_proj.out_features
    stream, product = load.stream_dtype.itemsize, load.products.itemsize
    per_norm = 2 if load.device == "cpu" else 1  # norms on CPUs are several operations
    inputs = (len(network.blocks) + per_norm) * load.tokens * width * stream
    norms = (2 * per_norm - 1) * width * stream  # the first norm's input is the block's
    inside = load.tokens * (norms + (6 * width + 4 * ffn) * product)
    if load.products != load.stream_dtype:
        inside += sum(p.numel() for p in block.parameters() if p.ndim > 1) * product
    backward = load.tokens * (2 * ffn * product + 4 * width * stream)
    if load.recomputation == "full":
        return inputs, backward + inside
    num_blocks = len(network.blocks) - 1 + load.masked_share  # the last one: masked positions only
    if load.recomputation == "selective":
        keys = block.attention.k_proj.out_features
        kept = load.tokens * (4 * width + 2 * keys + 2 * ffn) * product
        again = inside - load.tokens * (width + 2 * ffn) * product
        return inputs + int(num_blocks * kept), backward + again
    return inputs + int(num_blocks * inside), backward


def loss_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the temporary memory of the loss: gradients of its inputs and a chunk of logits."""
    width, num_ids = network.norm.weight.numel(), network.embedding.tokens.num_embeddings
    stream, product = load.stream_dtype.itemsize, load.products.itemsize
    exact = max(_FLOAT32, product)
    is_cast = load.products != load.stream_dtype
    states = load.num_masked * width * (stream + product * (1 + is_cast))
    chunk = min(load.num_masked, rows_at_once(num_ids, load.device)) * num_ids
    logits = chunk * product + 2 * min(chunk, scores_at_once(load.device)) * exact
    head = num_ids * width
    has_features = len(network.embedding.spans) > 0  # codebook embeddings are added to a copy
    temporary = max(is_cast * head * product + logits, head * stream)
    return states + head * exact + has_features * head * stream + temporary


def _muon_matrices(network: Transformer) -> list[torch.Tensor]:
    """Return the parameters that Muon orthogonalises."""
    groups = [g for g in decay_groups(network, 0.0) if g["kind"] in ("matrices", "filters")]
    return [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
