"""Low-rank adapters on a backbone's linears, by `peft`: the backbone is fixed, they are trained."""

from __future__ import annotations

import copy
import importlib
from typing import Any

from torch import nn

from lightning_omni.arguments import check_within
from lightning_omni.errors import OmniError
from lightning_omni.nn.new_rows import PARTS, train_rows_from, whole
from lightning_omni.nn.transformer import Transformer

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_BASE = ".base_layer."


class Lora:
    """Adds adapters to a backbone.

    Args:
        rank: Of each adapter.
        alpha: The adapter's product is scaled by `alpha / rank`.
        dropout: On the adapters' inputs.
        targets: Names of the linears that get one; all of attention and feed-forward by default.
        rows_from: Train the rows of both tables from this id on as well, such as those of ids that
            an imported checkpoint has not; None trains adapters alone.

    Raises:
        OmniError: If a number is out of range, a target is no linear of a block or `peft` is not
            installed.

    Source: arXiv:2106.09685.
    """

    def __init__(
        self,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: list[str] | None = None,
        rows_from: int | None = None,
    ) -> None:
        check_within("lora.rank", rank, 1)
        check_within("lora.alpha", alpha, 0)
        check_within("lora.dropout", dropout, 0, 1)
        self.targets = list(TARGETS) if targets is None else targets
        for name in self.targets:
            if name not in TARGETS:
                raise OmniError(f"lora.targets names '{name}', wanted some of {', '.join(TARGETS)}")
        if not self.targets:
            raise OmniError(f"lora.targets is empty, wanted some of {', '.join(TARGETS)}")
        self.rank, self.alpha, self.dropout, self.rows_from = rank, alpha, dropout, rows_from
        self._peft = _peft()

    def adapt(self, backbone: Transformer) -> None:
        """Put an adapter that changes nothing yet beside each target, and fix all other weights."""
        config = self._peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            bias="none",
        )
        self._peft.inject_adapter_in_model(config, backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = ".lora_" in name
        if self.rows_from is not None:
            train_rows_from(backbone.embedding, self.rows_from)


def plain_name(name: str) -> str | None:
    """A weight's name in the backbone without adapters; None for a weight of an adapter.

    The two parts of a table have one name.
    """
    if ".lora_" in name:
        return None
    path, is_part, _ = name.partition(PARTS)
    return f"{path}.weight" if is_part else name.replace(_BASE, ".")


def merged(backbone: Transformer) -> Transformer:
    """The backbone with adapters added into its weights; itself if it has none."""
    if not any(".lora_" in name for name in backbone.state_dict()):
        return backbone
    plain = copy.deepcopy(backbone)
    for block in plain.blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if hasattr(layer, "lora_A"):
                    setattr(parent, name, _merged_layer(layer))
    whole(plain.embedding)
    return plain.requires_grad_(requires_grad=True)


def _merged_layer(layer: Any) -> nn.Module:
    layer.merge(safe_merge=True)
    linear: nn.Module = layer.get_base_layer()
    return linear


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise OmniError(
            "model.lora needs the package 'peft'; run pip install 'lightning_omni[peft]'"
        ) from error
