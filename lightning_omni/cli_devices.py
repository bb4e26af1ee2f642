"""Which devices a run asks for, checked before its model is built."""

from __future__ import annotations

from collections.abc import Mapping
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from lightning_omni.errors import OmniError

_SETTINGS = ("accelerator", "devices", "num_nodes", "strategy")


def check_devices(trainer: Any) -> None:
    """Refuse devices that the machine, the launcher or the strategy does not have.

    Lightning's own checks are asked, those of its private `_AcceleratorConnector`, which come
    behind the model otherwise: minutes for one of billions of weights. They change a strategy, so a
    new one is made for them. A strategy that is an object, or takes objects, is left out: what it
    alone refuses is said behind the model.

    Args:
        trainer: Settings of the trainer, parsed.

    Raises:
        OmniError: If they cannot work, naming the settings.
    """
    plain: dict[str, Any] = {
        name: trainer[name] for name in _SETTINGS if isinstance(trainer[name], int | str | list)
    }
    path = _class_path(trainer["strategy"])
    shown = plain | ({"strategy": path} if path else {})
    try:
        _AcceleratorConnector(**plain, **_make_strategy(trainer["strategy"]))
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        told = ", ".join(f"trainer.{name} {value!r}" for name, value in shown.items())
        raise OmniError(f"{told}: {error}") from error


def _class_path(strategy: Any) -> str | None:
    return strategy.get("class_path") if isinstance(strategy, Namespace | Mapping) else None


def _make_strategy(settings: Any) -> dict[str, Any]:
    """Return the argument of a new strategy; none for what is no class with plain arguments."""
    path = _class_path(settings)
    if path is None:
        return {}
    options = settings.get("init_args") or {}
    options = options.as_dict() if isinstance(options, Namespace) else dict(options)
    plain = (bool, int, float, str, type(None))
    if not all(isinstance(value, plain) for value in options.values()):
        return {}
    made: Any = locate(path)
    return {"strategy": made(**options)}
