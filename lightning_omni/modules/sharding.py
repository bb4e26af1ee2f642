"""FSDP2: the joint model's weights, gradients and optimizer states shared out over devices."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightning_omni.errors import OmniError
from lightning_omni.nn.transformer import Transformer


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes; a module shards itself in `shard(mesh)`.

    Args:
        save_distributed_checkpoint: Save a checkpoint as a folder to which every process writes its
            share; else the first process gathers all and writes one file.
        process_group_backend: Backend such as `nccl` or `gloo`; None for the device's own.
    """

    def __init__(
        self, save_distributed_checkpoint: bool = True, process_group_backend: str | None = None
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

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


def shard_transformer(
    network: Transformer, mesh: DeviceMesh, *, dtype: torch.dtype | None = None
) -> None:
    """Share out a network's weights over the mesh, block by block.

    The weights outside the blocks stay gathered from the forward to the backward pass, because the
    loss reads the embedding after it.

    Args:
        network: Network with the same weights on all processes; changed in place.
        mesh: Mesh of one dimension.
        dtype: Format of gathered weights and of matrix products; gradients are summed in float32.
            None keeps float32.

    Source: `fully_shard` of torch, FSDP2; ZeRO-3, arXiv:1910.02054.
    """
    policy = MixedPrecisionPolicy()
    if dtype is not None:
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in network.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


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
    found: dict[str, Tensor] = get_model_state_dict(module, options=options)
    return found


def products_dtype(trainer: L.Trainer) -> torch.dtype | None:
    """Return the format of matrix products that the trainer's precision asks for."""
    return torch.bfloat16 if "bf16" in str(trainer.precision) else None
