"""Optimizers that go on from a checkpoint's state with the settings of this start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_omni.errors import OmniError

_INITIAL = "initial_lr"
_NOT_SETTINGS = ("params", "lr")


class OptimizerSettings:
    """Settings of optimizers before the states of a checkpoint, with other settings, are loaded.

    Args:
        optimizers: Optimizers as the recipe builds them.
        schedules: Lightning's records of their schedules.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> None:
        self.optimizers, self.schedules = optimizers, schedules
        self._settings = [
            [{k: group[k] for k in group if _is_setting(o, k)} for group in o.param_groups]
            for o in optimizers
        ]
        self._rates = [[float(group["lr"]) for group in o.param_groups] for o in optimizers]
        self._base_rates = [list(s.scheduler.base_lrs) for s in schedules]

    def apply(self) -> None:
        """Put the settings back; rates are those of the schedule at the checkpoint's step.

        The rate of an optimizer without a schedule of the recipe is the recipe's.
        """
        for optimizer, groups, rates in zip(
            self.optimizers, self._settings, self._rates, strict=True
        ):
            scheduled = any(s.scheduler.optimizer is optimizer for s in self.schedules)
            for group, settings, rate in zip(optimizer.param_groups, groups, rates, strict=True):
                group.update(settings)
                if not scheduled:
                    group["lr"] = rate
        for record, rates in zip(self.schedules, self._base_rates, strict=True):
            _restate_schedule(record.scheduler, rates)


def _is_setting(optimizer: Optimizer, name: str) -> bool:
    """Whether a recipe states an entry of a group of weights.

    It states arguments of the optimizer. Its other defaults are a running state, as in ScheduleFree
    and Prodigy.
    """
    if name in _NOT_SETTINGS:
        return False
    return name in signature(type(optimizer)).parameters or name not in optimizer.defaults


def _restate_schedule(schedule: Any, base_rates: list[float]) -> None:
    """Give a schedule other base rates, and its optimizer the rates that follow from them."""
    groups = schedule.optimizer.param_groups
    before, schedule.base_lrs = schedule.base_lrs, base_rates
    if isinstance(schedule, LambdaLR):
        shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
        rates = [base * share for base, share in zip(base_rates, shares, strict=True)]
    else:
        old = [group["lr"] for group in groups]
        rates = [
            r if b == a else r * b / a for r, a, b in zip(old, before, base_rates, strict=True)
        ]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def check_same_optimizer(
    path: str, states: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer], instead: str
) -> None:
    """Refuse states of other optimizers, which have other settings, or other groups of weights.

    Raises:
        OmniError: If there are some; `instead` is the way out.
    """
    if len(states) != len(optimizers):
        raise OmniError(
            f"the checkpoint '{path}' has the states of {len(states)} optimizers and the recipe "
            f"has {len(optimizers)}; restore the recipe, or {instead}"
        )
    for state, optimizer in zip(states, optimizers, strict=True):
        found, own = state["param_groups"], optimizer.param_groups
        names = [set(groups[0]) - {_INITIAL} for groups in (own, found)]
        wanted, surplus = sorted(names[0] - names[1]), sorted(names[1] - names[0])
        if wanted and surplus:  # one side alone is another version of the same optimizer
            raise OmniError(
                f"the checkpoint '{path}' has the state of another optimizer than the recipe's "
                f"{type(optimizer).__name__}: settings {', '.join(surplus)} in place of "
                f"{', '.join(wanted)}; restore model.optimizer, or {instead}"
            )
        sizes = [[len(group["params"]) for group in groups] for groups in (own, found)]
        if sizes[0] != sizes[1]:
            raise OmniError(
                f"the checkpoint '{path}' has optimizer states of groups of {sizes[1]} weights and "
                f"the recipe trains groups of {sizes[0]}; restore what is trained, or {instead}"
            )
