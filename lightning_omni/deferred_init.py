"""Weights without memory: a network on the meta device that records its initialisers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ATTRIBUTE = "deferred_value"
_OVERWRITES = frozenset(
    ("constant_", "fill_", "kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "zero_")
)
_CHANGES = frozenset(("add_", "clamp_", "copy_", "div_", "erfinv_", "mul_", "sub_"))
_INSPECTS = frozenset(
    (
        *("__len__", "data", "dim", "dtype", "grad", "grad_fn", "is_complex", "is_contiguous"),
        *("is_cuda", "is_floating_point", "is_leaf", "layout", "ndim", "numel", "requires_grad"),
        *("requires_grad_", "shape", "size", "stride"),
    )
)
"""Attributes that are the same without memory."""
InitialValue = Callable[[Tensor], object]
"""Writes the initial value of a weight into a tensor of its shape on the CPU."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation in place on a weight, and the state of torch's generator before it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Tensor


@dataclass(frozen=True, slots=True)
class _Draws:
    """The initial value that operations in place give to a weight, in their order."""

    operations: tuple[_Operation, ...] = ()

    def __call__(self, target: Tensor) -> None:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for each in self.operations:
                torch.set_rng_state(each.state)
                each.function(target, *each.args, **each.kwargs)


class Scratch:
    """Memory for one tensor at a time, as large as the largest, on a device."""

    def __init__(self, device: str = "cpu") -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    def tensor_like(self, weight: Tensor) -> Tensor:
        """Return a tensor of a weight's shape and format; it takes the place of the one before."""
        size = weight.numel() * weight.itemsize
        if len(self._bytes) < size:
            self._bytes = torch.empty(0, dtype=torch.uint8, device=self._bytes.device)
            self._bytes = torch.empty(size, dtype=torch.uint8, device=self._bytes.device)
        return self._bytes[:size].view(weight.dtype).view(weight.shape)


_scratch: ContextVar[Scratch | None] = ContextVar("scratch", default=None)


@contextmanager
def deferred_weights() -> Generator[None, None, None]:
    """Build networks (`Pretrained`) whose weights are on the meta device until they are sharded.

    Their initial values, given by `initial_value`, are those of a network that is built whole, and
    torch's generator goes through the same states. What a constructor does not initialise in place
    (buffers, normed weights) is built as ever.
    """
    token = _scratch.set(Scratch())
    try:
        yield
    finally:
        _scratch.reset(token)


@contextmanager
def deferring_constructor() -> Generator[None, None, None]:
    """Run a constructor, with weights on the meta device inside `deferred_weights`."""
    scratch = _scratch.get()
    if scratch is None:
        yield
        return
    token = _scratch.set(None)  # constructors of parts are inside already
    try:
        with _Deferring(scratch):
            yield
    finally:
        _scratch.reset(token)


def initial_value(weight: Tensor) -> InitialValue:
    """Return what computes the initial value of a weight on the meta device."""
    found: InitialValue = getattr(weight, _ATTRIBUTE)
    return found


def set_initial_value(weight: Tensor, value: InitialValue) -> None:
    """Let a weight on the meta device begin with another value, computed when it is needed."""
    setattr(weight, _ATTRIBUTE, value)


class _Deferring(TorchFunctionMode):
    """Creates parameters on the meta device, and writes down how they are initialised.

    Each initialisation is done in the scratch memory, too, so that the generator moves on.
    """

    def __init__(self, scratch: Scratch) -> None:
        super().__init__()
        self._scratch = scratch

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Allocate on the meta device, note initialisations, and make real what is read."""
        given = dict(kwargs or {})
        if func is torch.empty:
            return func(*args, **{**given, "device": "meta"})
        name = _function_name(func)
        if name in _INSPECTS:
            return func(*args, **given)
        if name in _OVERWRITES | _CHANGES:
            weight = args[0] if args else given.pop("tensor")
            if isinstance(weight, nn.Parameter) and weight.is_meta:
                operation = _Operation(func, args[1:], given, torch.get_rng_state())
                _record_operation(weight, name, operation)
                with torch.no_grad():
                    func(self._scratch.tensor_like(weight), *args[1:], **given)
                return weight
            args = (weight, *args[1:])
        for tensor in _iterate_tensors((*args, *given.values())):
            if tensor.is_meta:
                _materialize(tensor)
        return func(*args, **given)


def _function_name(func: Callable[..., Any]) -> str:
    """Return the name of a function, or of the attribute that it reads or writes."""
    owner = getattr(func, "__self__", None)
    return str(getattr(owner if func.__name__ in ("__get__", "__set__") else func, "__name__", ""))


def _record_operation(weight: nn.Parameter, name: str, operation: _Operation) -> None:
    """Add an operation to the initial value of a weight."""
    draws = getattr(weight, _ATTRIBUTE, _Draws())
    before = () if name in _OVERWRITES else draws.operations
    setattr(weight, _ATTRIBUTE, _Draws((*before, operation)))


def _iterate_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _iterate_tensors(value)


def _materialize(tensor: Tensor) -> None:
    """Give a tensor memory and its initial value, in place."""
    value = torch.empty_like(tensor, device="cpu", requires_grad=False)
    getattr(tensor, _ATTRIBUTE, _Draws())(value)
    if isinstance(tensor, nn.Parameter):
        value = nn.Parameter(value, requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, value)  # type: ignore[no-untyped-call]
