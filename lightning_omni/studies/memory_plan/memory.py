"""Memory of one device: weights, gradients, optimizer states, activations, and their peak."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import torch

from lightning_omni.diffusion.objective import rows_at_once, scores_at_once
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.muon import AT_ONCE
from lightning_omni.optim.optimizer import decay_groups
from lightning_omni.studies.memory_plan.activations import activation_bytes
from lightning_omni.studies.memory_plan.device_load import DeviceLoad
from lightning_omni.studies.memory_plan.parameters import count_parameters

_FLOAT32 = 4  # bytes


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

    The peak is at the loss, as its gradients are handed on, in the first block of the backward
    pass, at its end, or in the optimizer update. Frozen weights, as those beside adapters, have
    neither gradients nor states.
    FSDP shares by block: the weights outside blocks stay gathered during a pass, and of the blocks
    the current and the next one; gradients of both kinds are whole before they are shared out.
    """
    trained = _count_trained(network) * load.weights.itemsize // load.num_shards
    weights = count_parameters(network) * load.weights.itemsize // load.num_shards
    optimizer = optimizer_bytes(network, load) // load.num_shards
    ema = weights if load.has_ema else 0
    block = count_parameters(network.blocks[0])
    root = count_parameters(network) - block * len(network.blocks)
    head = _head_gradient_bytes(network, load)
    if load.is_sharded:
        gathered = (root + 2 * block) * load.products.itemsize
        early_gradients = (root + block) * load.products.itemsize
        exchange = gathered + (early_gradients if load.devices > 1 else 0)
    else:
        gathered = exchange = weights if load.devices > 1 else 0
        early_gradients = 0 if load.accumulates else head
    activations, backward = activation_bytes(network, load)
    loss, its_gradients = loss_bytes(network, load)
    states = weights + optimizer + ema
    accumulated = trained if load.accumulates else 0
    kept = trained if load.accumulates or load.keeps_gradients else 0
    peak = max(
        states + gathered + kept + activations + loss,
        states + gathered + accumulated + activations + its_gradients,
        states + gathered + accumulated + activations + early_gradients + backward,
        # a tied table's two gradients are added at the end of the backward pass
        states + trained + (head if _is_tied(network) else 0),
        states + trained + update_bytes(network, load),
    )
    largest = max(loss, its_gradients)
    return DeviceMemory(weights, trained, optimizer, ema, exchange, activations, largest, peak)


def optimizer_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the optimizer states of the whole model: two numbers per trained parameter.

    Muon keeps one number per element of a matrix.
    """
    num_muon = sum(p.numel() for p in _muon_matrices(network)) if load.optimizer == "muon" else 0
    return (2 * _count_trained(network) - num_muon) * load.weights.itemsize


def update_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the temporary memory of an update on one device.

    Muon stacks whole matrices of a shape, sharded ones too; AdamW that is not fused holds a
    temporary per parameter.
    """
    if load.optimizer == "fused_adamw":
        return 0
    if load.optimizer == "adamw":
        return _count_trained(network) * load.weights.itemsize // load.num_shards
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


def loss_bytes(network: Transformer, load: DeviceLoad) -> tuple[int, int]:
    """Return the temporary memory of the loss in its forward and in its backward pass.

    Forward it forms the gradients of its inputs, with a chunk of logits at a time; backward they
    are handed on, in the formats of the inputs.
    """
    width, num_ids = network.norm.weight.numel(), network.embedding.tokens.num_embeddings
    stream, product = load.stream_dtype.itemsize, load.products.itemsize
    exact = max(_FLOAT32, product)
    is_cast = load.products != load.stream_dtype
    states = load.num_masked * width * (stream + product * (1 + is_cast))
    chunk = min(load.num_masked, rows_at_once(num_ids, load.device)) * num_ids
    logits = chunk * product + 2 * min(chunk, scores_at_once(load.device)) * exact
    head = num_ids * width
    has_features = len(network.embedding.spans) > 0  # codebook embeddings are added to a copy
    given = _head_gradient_bytes(network, load)
    formed = states + (head * exact if given else 0) + has_features * head * stream
    return formed + is_cast * head * product + logits, formed + given


def _head_gradient_bytes(network: Transformer, load: DeviceLoad) -> int:
    """Return the bytes of the output table's gradient; a frozen table has none."""
    table = network.embedding.head.weight
    has_one = table.requires_grad or len(network.embedding.spans) > 0
    return table.numel() * load.stream_dtype.itemsize if has_one else 0


def _count_trained(network: Transformer) -> int:
    """Return the number of parameters that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _is_tied(network: Transformer) -> bool:
    """Tell whether input and output share a table that is trained."""
    embedding = network.embedding
    return embedding.head.weight is embedding.tokens.weight and embedding.head.weight.requires_grad


def _muon_matrices(network: Transformer) -> list[torch.Tensor]:
    """Return the parameters that Muon orthogonalises."""
    groups = [g for g in decay_groups(network, 0.0) if g["kind"] in ("matrices", "filters")]
    return [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
