"""Statistics of a batch that is spread over the processes of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Generator, Tensor


def world_size() -> int:
    """Return the number of processes, 1 outside of a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype, in place, by their sums over the processes."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean over the processes; gradients, averaged later, become those of the mean.

    Only the part of a process has a gradient in it, as if each had the whole mean.
    """
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return x + (total / world_size() - x).detach()


def gather_ranks(x: Tensor) -> Tensor:
    """Return the rows of all processes, of equal number, in the order of ranks."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def draw_normal(shape: Sequence[int], rng: Generator) -> Tensor:
    """Draw noise for the batch of all processes and return this one's rows.

    Generators of equal state stay equal, and no two processes have the same noise.
    """
    if world_size() == 1:
        return torch.randn(tuple(shape), generator=rng)
    whole = torch.randn((shape[0] * world_size(), *shape[1:]), generator=rng)
    return whole[dist.get_rank() * shape[0] :][: shape[0]]
