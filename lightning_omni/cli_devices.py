"""Which devices a run asks for, checked before its model is built."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from lightning_omni.errors import OmniError

_SETTINGS = ("accelerator", "devices", "num_nodes", "strategy")


def check_devices(trainer: Any) -> None:
    """Refuse devices that the machine, the launcher or the strategy does not have.

    Lightning's own checks are asked, which come behind the model otherwise: minutes for one of
    billions of weights.

    Args:
        trainer: Settings of the trainer, parsed.

    Raises:
        OmniError: If they cannot work, naming the settings.
    """
    plain: dict[str, Any] = {
        name: trainer[name] for name in _SETTINGS if isinstance(trainer[name], int | str | list)
    }
    try:
        _AcceleratorConnector(**plain)
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        shown = ", ".join(f"trainer.{name} {value!r}" for name, value in plain.items())
        raise OmniError(f"{shown}: {error}") from error
