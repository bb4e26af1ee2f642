"""Ways of sampling as plain values, for records and for the files of a model."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import asdict, fields
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import Sampling
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.growth import Growth

_HOME = "lightning_omni.samplers."


def to_plain(sampling: Sampling) -> dict[str, Any]:
    """Every field; a sampler by its class and arguments, as recipes write them."""
    plain = {f.name: getattr(sampling, f.name) for f in fields(sampling)}
    if sampling.sampler is not None:
        plain["sampler"] = _plain_sampler(sampling.sampler)
    if sampling.grow is not None:
        plain["grow"] = asdict(sampling.grow)
    return plain


def from_plain(plain: dict[str, Any]) -> Sampling:
    """Undo `to_plain`; only samplers of this package are made.

    Raises:
        OmniError: If a field, a sampler or an argument is unknown.
    """
    values = dict(plain)
    try:
        if values.get("sampler") is not None:
            values["sampler"] = _sampler(values["sampler"])
        if values.get("grow") is not None:
            values["grow"] = Growth(**values["grow"])
        return Sampling(**values)
    except (TypeError, KeyError, AttributeError, ImportError) as error:
        raise OmniError(f"{plain} is no way of sampling ({error})") from error


def given(sampling: Sampling) -> dict[str, Any]:
    """The fields that differ from those of `Sampling()`."""
    plain = Sampling()
    values = {f.name: getattr(sampling, f.name) for f in fields(sampling)}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}


def _plain_sampler(sampler: Sampler) -> dict[str, Any]:
    kind = type(sampler)
    values = {name: getattr(sampler, name) for name in inspect.signature(kind).parameters}
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {
            name: _plain_sampler(value) if isinstance(value, Sampler) else value
            for name, value in values.items()
        },
    }


def _sampler(plain: dict[str, Any]) -> Sampler:
    module, _, name = str(plain["class_path"]).rpartition(".")
    if not f"{module}.".startswith(_HOME):
        raise OmniError(f"'{plain['class_path']}' is no sampler of {_HOME.rstrip('.')}")
    arguments = {
        key: _sampler(value) if isinstance(value, dict) and "class_path" in value else value
        for key, value in plain.get("init_args", {}).items()
    }
    made = getattr(importlib.import_module(module), name)(**arguments)
    if not isinstance(made, Sampler):
        raise OmniError(f"'{plain['class_path']}' is no sampler")
    return made
