"""Whether a checkpoint's weights are those of the recipe's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_omni.errors import OmniError

_SHOWN = 3


def check_same_weights(
    path: str, found: Mapping[str, Any], own: Mapping[str, Any], instead: str
) -> None:
    """Refuse weights of other names or shapes.

    Args:
        path: Checkpoint, for the message.
        found: Its weights by name.
        own: Weights of the recipe's model by name.
        instead: Way out.

    Raises:
        OmniError: If there are some; names the first.
    """
    differing = [
        f"{name} {_describe(name, own)} (checkpoint: {_describe(name, found)})"
        for name in dict.fromkeys([*own, *found])
        if _describe(name, own) != _describe(name, found)
    ]
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise OmniError(
            f"the checkpoint '{path}' is of another model than the recipe's: "
            f"{', '.join(differing[:_SHOWN])}{more}; give the recipe of the checkpoint's run, or "
            f"{instead}"
        )


def _describe(name: str, weights: Mapping[str, Any]) -> str:
    if name not in weights:
        return "none"
    shape = getattr(weights[name], "shape", None)
    return "a value" if shape is None else " x ".join(map(str, shape)) or "a number"
