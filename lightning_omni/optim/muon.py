"""Muon for a network's matrices and AdamW for all other weights, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError
from lightning_omni.nn.cpu import matmul_dtype
from lightning_omni.nn.ranks import gather_ranks, world_size
from lightning_omni.nn.sharded_tensors import distribute_like, gather_tensor

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
AT_ONCE = 8
"""Matrices that are orthogonalised together, which bounds the memory of a step."""
ADAMW_RMS = 0.2  # root mean square of a typical AdamW update, to which Muon's is scaled


class MuonAdamW(Optimizer):
    """Orthogonalised momentum for the groups `matrices` and `filters`, AdamW for all others.

    Both use the group's learning rate, as Muon's updates are scaled to the size of AdamW's.
    Matrices of one shape are orthogonalised together, and shared out among the processes of a run,
    whose gradients are equal by then; a convolution counts as one matrix from its
    inputs to its output channels.

    As torch's fused optimizers, it does nothing if its attribute `found_inf`, a number of the
    device, is 1: no host waits for it.

    Args:
        params: Parameter groups of `decay_groups`, with a `kind`.
        lr: Learning rate.
        momentum: Momentum of Muon, with Nesterov's correction.
        ns_steps: Number of Newton-Schulz iterations.
        betas: Betas of AdamW.
        eps: Epsilon of AdamW.

    Source: Muon, https://kellerjordan.github.io/posts/muon; scale, arXiv:2502.16982.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        check_within("lr", lr, 0)
        check_within("momentum", momentum, 0, 1)
        check_within("ns_steps", ns_steps, 1)
        for beta in betas:
            check_within("betas", beta, 0, 1)
        groups = list(params)
        for group in groups:
            if "kind" not in group:
                raise OmniError("MuonAdamW needs parameter groups of decay_groups, with a kind")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "ns_steps": ns_steps,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": 0.0,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._skips: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            if group["kind"] in ("matrices", "filters"):
                self._update_by_muon(group, with_grad)
            elif with_grad:
                self._update_by_adamw(group, with_grad)
        return loss

    def _update_by_muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in parameters:
            by_shape[p.shape].append(p)
        for same in by_shape.values():
            for start in range(0, len(same), AT_ONCE):
                self._update_equal_shapes_by_muon(group, same[start : start + AT_ONCE])

    def _update_equal_shapes_by_muon(self, group: dict[str, Any], same: list[Tensor]) -> None:
        shape = same[0].shape
        whole = [  # a share cannot be orthogonalised alone
            gather_tensor(self._update_momentum(p, group["momentum"])).flatten(1) for p in same
        ]
        updates = torch.stack(whole)
        updates = updates.to(matmul_dtype(updates.device.type))
        updates = _orthogonalise_by_shares(updates, steps=group["ns_steps"]).to(same[0].dtype)
        scale = ADAMW_RMS * max(updates.shape[1:]) ** 0.5
        for p, update in zip(same, updates, strict=True):
            before = None if self._skips is None else p.clone()
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(distribute_like(update.view(shape), p), alpha=-group["lr"] * scale)
            if before is not None and self._skips is not None:
                put_back(p, before, self._skips)

    def _update_momentum(self, p: Tensor, beta: float) -> Tensor:
        assert p.grad is not None  # noqa: S101
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        before = None if self._skips is None else state["momentum"].clone()
        state["momentum"].lerp_(p.grad, 1 - beta)
        if before is not None and self._skips is not None:
            put_back(state["momentum"], before, self._skips)
        return p.grad.lerp(state["momentum"], beta)

    def _update_by_adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Update by one kernel on GPUs, where steps are counted on the device, too."""
        is_fused = is_updated_by_one_kernel(parameters[0])
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(step=torch.zeros(()), m=torch.zeros_like(p), v=torch.zeros_like(p))
            step_device = p.device if is_fused else torch.device("cpu")
            if state["step"].device != step_device:  # at first, and resumed elsewhere
                state["step"] = state["step"].to(step_device, non_blocking=True)
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["m"] for s in states],
            [s["v"] for s in states],
            [],
            [s["step"] for s in states],
            foreach=not is_fused,
            fused=is_fused,
            found_inf=self._skips if is_fused else None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def put_back(changed: Tensor, before: Tensor, skips: Tensor) -> None:
    """Give a tensor its earlier values if a number of its device is 1."""
    own, earlier = (t.to_local() if isinstance(t, DTensor) else t for t in (changed, before))
    own.copy_(torch.where(skips > 0, earlier, own))


def is_updated_by_one_kernel(parameter: Tensor) -> bool:
    """Whether torch's fused AdamW updates a weight: on GPUs, where it reads all values once."""
    return parameter.is_cuda


def _orthogonalise_by_shares(updates: Float[Tensor, "K N M"], *, steps: int) -> Tensor:
    """Orthogonalise matrices that all processes hold; each computes every so many-th of them."""
    ranks, count = world_size(), len(updates)
    if ranks == 1 or count == 1:
        return orthogonalise(updates, steps=steps)
    own = orthogonalise(updates[dist.get_rank() :: ranks], steps=steps)
    largest = -(-count // ranks)
    padded = torch.zeros(largest, *updates.shape[1:], dtype=own.dtype, device=own.device)
    padded[: len(own)] = own
    by_rank = gather_ranks(padded).view(ranks, largest, *updates.shape[1:])
    return by_rank.transpose(0, 1).flatten(0, 1)[:count]


def orthogonalise(updates: Float[Tensor, "K N M"], *, steps: int) -> Float[Tensor, "K N M"]:
    """Return matrices with singular values near one, by Newton-Schulz iterations."""
    a, b, c = NS_COEFFICIENTS
    is_tall = updates.shape[1] > updates.shape[2]
    x = updates.mT if is_tall else updates
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result: Tensor = x.mT if is_tall else x
    return result
