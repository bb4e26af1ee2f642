"""What the `config.json` of a published backbone says of its kind: attention, logits and norms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_omni.errors import OmniError
from lightning_omni.interop.card import CARD_FILE, LIBRARY_LINE

Name = Literal["dream", "qwen2", "qwen3"]


@dataclass(frozen=True, slots=True)
class Family:
    """Kind of a published network.

    Attributes:
        name: Architecture.
        right_shift_logits: Whether the network's output at position i - 1 scores token i.
        is_causal: Whether tokens attend only to themselves and to those before them.
        qk_norm: Whether queries and keys are normalised per head.
    """

    name: Name
    right_shift_logits: bool
    is_causal: bool
    qk_norm: bool = False


def read_family(config: dict[str, Any], folder: Path) -> Family:
    """Return the kind of a published network.

    Qwen2 and Qwen3 are next-token models. `is_causal: false`, which `transformers` honours too and
    our exports state, makes them bidirectional networks whose position i scores token i.

    Args:
        config: Content of its `config.json`.
        folder: Folder of the checkpoint.

    Raises:
        OmniError: If the network is of an unsupported kind.
    """
    kind = str(config.get("model_type", "")).lower()
    names = config.get("architectures")
    names = [str(name) for name in names] if isinstance(names, list) else []
    if kind == "dream" or any(name.startswith("Dream") for name in names):
        return Family("dream", right_shift_logits=True, is_causal=False)
    if kind not in ("qwen2", "qwen3"):
        experts = " (a mixture of experts)" if "moe" in kind else ""
        raise OmniError(
            f"'{folder}' holds a model of type '{config.get('model_type')}'{experts}; Dream, dense "
            "qwen2 and qwen3, and our own exports can be read"
        )
    is_causal = config.get("is_causal")
    if is_causal is None:
        is_causal = not _is_older_export(folder)
    if not isinstance(is_causal, bool):
        raise OmniError(
            f"'{folder / 'config.json'}' has is_causal {is_causal!r}, wanted true or false"
        )
    name: Name = "qwen3" if kind == "qwen3" else "qwen2"
    return Family(name, is_causal, is_causal, qk_norm=kind == "qwen3")


def _is_older_export(folder: Path) -> bool:
    """Tell whether this package wrote the folder, which once did not state `is_causal: false`."""
    card = folder / CARD_FILE
    return card.is_file() and LIBRARY_LINE in card.read_text("utf-8", "replace").splitlines()[:5]
