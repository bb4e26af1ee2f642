"""FSDP2: the joint model's weights, gradients and optimizer states shared out over devices."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightning_omni.deferred_init import InitialValue, Scratch, initial_value
from lightning_omni.errors import OmniError
from lightning_omni.modules.checkpoint_folder import (
    FolderWriter,
    Keys,
    gather_checkpoint,
    read_checkpoint_folder,
    remove,
    shard_checkpoint,
)
from lightning_omni.nn.transformer import Transformer


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes; a module shards itself in `shard(mesh)`.

    Args:
        save_distributed_checkpoint: Save a checkpoint as a folder to which every process writes its
            share; else the first process gathers all and writes one file. Either is resumed by
            either, on any number of processes.
        save_asynchronously: Train on while a folder is written.
        process_group_backend: Backend such as `nccl` or `gloo`; None for the device's own.

    Attributes:
        checked_checkpoint: Folder that was compared with its checksums just now.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        save_asynchronously: bool = False,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )
        self._writer = FolderWriter(is_asynchronous=save_asynchronously)
        self.checked_checkpoint: Path | None = None

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether optimizers are restored by `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Make the mesh of all processes.

        Raises:
            OmniError: If the module does not shard itself.
        """
        module = self.lightning_module
        if not hasattr(module, "shard"):
            raise OmniError(
                f"{type(module).__name__} cannot be sharded; train it with "
                "recipes/strategy/ddp.yaml, in which every device holds the whole model"
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this process's share of the weights, with all names."""
        assert self.lightning_module is not None  # noqa: S101
        return dict(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return this process's share of an optimizer's state, named as on one device."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint with all its tensors, those of callbacks too.

        The folder or file holds the same dictionary as a checkpoint of one device.
        """
        path = Path(self.broadcast(str(filepath)))
        if self._save_distributed_checkpoint:
            self._writer.write(checkpoint, path)
            return
        whole = gather_checkpoint(checkpoint, keeps=self.is_global_zero)
        if self.is_global_zero and path.is_dir():
            remove(path)
        Strategy.save_checkpoint(self, whole, path, storage_options)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Delete a checkpoint on the first process, not before its successor is complete."""
        if self.is_global_zero:
            self._writer.remove(Path(filepath))

    def finish_checkpoint(self) -> None:
        """Wait until the last checkpoint is complete."""
        self._writer.wait()

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a folder's or file's contents, tensors shared out as those of this run.

        Raises:
            OmniError: If the folder is incomplete.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        self._writer.wait()
        if path.is_dir():
            finder, is_checked = self._make_counterpart_finder(), path == self.checked_checkpoint
            return read_checkpoint_folder(path, finder, is_checked=is_checked)
        whole = Strategy.load_checkpoint(self, path, weights_only)
        return shard_checkpoint(whole, self._make_counterpart_finder())

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Copy weights that are shared out into the module."""
        Strategy.load_model_state_dict(self, checkpoint, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Copy states that are shared out into the optimizers."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            _optimizer_to_device(optimizer, self.root_device)

    def teardown(self) -> None:
        """Wait for the last checkpoint, alone, as other processes may have failed."""
        self._writer.wait(is_alone=True)
        super().teardown()

    def _make_counterpart_finder(self) -> Any:
        """Return how each tensor of a checkpoint is shared out: as the weight it belongs to."""
        assert self.lightning_module is not None  # noqa: S101
        weights = self.lightning_module.state_dict()
        indexed = [
            [p for group in optimizer.param_groups for p in group["params"]]
            for optimizer in self.optimizers
        ]

        def find(path: Keys, shape: torch.Size) -> Tensor | None:
            if path[0] == "optimizer_states" and path[2] == "state":
                weight = indexed[path[1]][path[3]] if indexed else None
            else:
                weight = weights.get(str(path[-1]))
            return weight if weight is not None and weight.shape == shape else None

        return find


def shard_transformer(
    network: Transformer, mesh: DeviceMesh, *, dtype: torch.dtype | None = None
) -> None:
    """Share out a network's weights over the mesh, block by block.

    The weights outside the blocks stay gathered from the forward to the backward pass, because the
    loss reads the embedding after it; so do those of the last block, with which the backward pass
    begins. While a block computes, the next one is gathered.

    Args:
        network: Network, changed in place; the weights of the first process are taken. Those on
            the meta device (`deferred_weights`) come into being one at a time, as shares.
        mesh: Mesh of one dimension.
        dtype: Format of gathered weights and of matrix products; gradients are summed in float32.
            None keeps float32.

    Source: `fully_shard` of torch, FSDP2; ZeRO-3, arXiv:1910.02054.
    """
    _broadcast_weights(network, mesh)
    deferred = _initial_values(network)
    policy = MixedPrecisionPolicy()
    if dtype is not None:
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in network.blocks:
        is_last = block is network.blocks[-1]
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not is_last)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for part, following in pairwise([network, *network.blocks]):
        part.set_modules_to_forward_prefetch([following])
    _materialise_weights(network, deferred, mesh)


def shard_parts(network: nn.Module, mesh: DeviceMesh) -> None:
    """Share out each trainable part of a network, in float32: an encoder, a decoder and the like.

    Parts are whole while they compute. They have to be called, not their methods.

    Args:
        network: Network, changed in place; the weights of the first process are taken. Those on
            the meta device (`deferred_weights`) come into being one at a time, as shares.
        mesh: Mesh of one dimension.
    """
    _broadcast_weights(network, mesh)
    deferred = _initial_values(network)
    for part in network.children():
        if any(p.requires_grad for p in part.parameters()):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
    _materialise_weights(network, deferred, mesh)


def _broadcast_weights(network: nn.Module, mesh: DeviceMesh) -> None:
    """Give all processes the weights and buffers of the first, one at a time.

    Weights on the meta device are left out.
    """
    for value in network.state_dict(keep_vars=True).values():
        if mesh.size() > 1 and not value.is_meta:
            sent = value.detach().to(mesh.device_type).contiguous()
            dist.broadcast(sent, group_src=0, group=mesh.get_group())
            with torch.no_grad():
                value.copy_(sent)


def _initial_values(network: nn.Module) -> dict[str, InitialValue]:
    """Return what computes the initial value of each weight on the meta device."""
    return {name: initial_value(p) for name, p in network.named_parameters() if p.is_meta}


def _materialise_weights(
    network: nn.Module, deferred: Mapping[str, InitialValue], mesh: DeviceMesh
) -> None:
    """Give weights on the meta device memory for this process's share, and the first's values.

    The first process computes a value and sends it, and each keeps its share before the next.
    """
    values = {id(p): deferred[n] for n, p in network.named_parameters() if n in deferred}
    computed, sent = Scratch(), Scratch(mesh.device_type)
    rank = mesh.get_local_rank()

    def materialise(weight: Tensor) -> Tensor:
        if not weight.is_meta:
            return weight
        whole = sent.tensor_like(weight)
        if rank == 0:
            target = whole if whole.device.type == "cpu" else computed.tensor_like(weight)
            values[id(weight)](target)
            whole.copy_(target)
        if mesh.size() > 1:
            dist.broadcast(whole, group_src=0, group=mesh.get_group())
        filled = torch.empty_like(weight, device=mesh.device_type)
        if isinstance(filled, DTensor):  # by rows
            rows = whole.chunk(mesh.size())
            filled.to_local().copy_(rows[rank] if rank < len(rows) else whole[:0])
        else:
            filled.copy_(whole)
        return filled

    if deferred:  # the module's own way to other devices, which FSDP follows
        network._apply(materialise)  # type: ignore[no-untyped-call]


def is_sharded(module: nn.Module) -> bool:
    """Whether any weight is shared out over devices."""
    return any(isinstance(p, DTensor) for p in module.parameters()) or any(
        isinstance(m, FSDPModule) for m in module.modules()
    )


def reshard(module: nn.Module) -> None:
    """Free gathered weights, so that a module's parameters are the shares that training updates."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def gather_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return whole weights and buffers on the CPU of the first process; nothing on the others.

    Every process has to call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Any = get_model_state_dict(module, options=options)
    return dict(found)


def products_dtype(trainer: L.Trainer) -> torch.dtype | None:
    """Return the format in which weights are gathered, and multiplied; None for float32.

    It is bfloat16 with `bf16` in the trainer's precision and, on GPUs, with `auto-bf16`.
    """
    if "bf16" in str(trainer.precision):
        return torch.bfloat16
    rule = getattr(trainer.precision_plugin, "is_used_on", None)
    is_gpu = trainer.strategy.root_device.type == "cuda"
    return torch.bfloat16 if is_gpu and rule is not None and rule("cuda") else None
