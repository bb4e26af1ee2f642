"""LoRA adapters and trainable rows of the embedding tables."""

from __future__ import annotations

import copy
import importlib
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError
from lightning_omni.nn.embedding import OmniEmbedding
from lightning_omni.nn.transformer import Transformer

TARGET_MODULES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
_BASE = ".base_layer."
_SPLIT = ".parametrizations.weight.original"
"""Prefix, before their number, of the names of the two parts of a split table."""


class Lora:
    """Adds low-rank adapters to a backbone.

    Args:
        rank: Rank of each adapter.
        alpha: Scale; the adapter's product is multiplied by `alpha / rank`.
        dropout: Dropout rate on the adapters' inputs.
        targets: Names of the linear layers to adapt; by default all of attention and feed-forward.
        trainable_rows_from: First id whose rows of both embedding tables are trained as well, for
            instance the ids that an imported checkpoint does not define; None trains only the
            adapters.

    Raises:
        OmniError: If a number is out of range, a target is not a linear layer of a block, or
            `peft` is not installed.

    Source: arXiv:2106.09685; trainable rows are `trainable_token_indices` of `peft`.
    """

    def __init__(
        self,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: list[str] | None = None,
        trainable_rows_from: int | None = None,
    ) -> None:
        check_within("lora.rank", rank, 1)
        check_within("lora.alpha", alpha, 0)
        check_within("lora.dropout", dropout, 0, 1)
        self.targets = list(TARGET_MODULES) if targets is None else targets
        choices = ", ".join(TARGET_MODULES)
        for name in self.targets:
            if name not in TARGET_MODULES:
                raise OmniError(f"lora.targets names '{name}', wanted some of {choices}")
        if not self.targets:
            raise OmniError(f"lora.targets is empty, wanted some of {choices}")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.trainable_rows_from = trainable_rows_from
        self._import_peft = _import_peft()

    def adapt(self, backbone: Transformer) -> None:
        """Add an adapter, initialised to zero effect, to each target; freeze all other weights."""
        config = self._import_peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            bias="none",
        )
        self._import_peft.inject_adapter_in_model(config, backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad = ".lora_" in name
        if self.trainable_rows_from is not None:
            make_rows_trainable(backbone.embedding, self.trainable_rows_from)


def base_name(name: str) -> str | None:
    """Map a weight's name to its name in the backbone without adapters.

    Both parts of a split table map to the table's name; a weight of an adapter maps to None.
    """
    if ".lora_" in name:
        return None
    path, is_part, _ = name.partition(_SPLIT)
    return f"{path}.weight" if is_part else name.replace(_BASE, ".")


def merge_adapters(backbone: Transformer) -> Transformer:
    """Return a copy whose weights include the adapters; `backbone` itself if it has none."""
    if not any(".lora_" in name for name in backbone.state_dict()):
        return backbone
    plain = copy.deepcopy(backbone)
    for block in plain.blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if hasattr(layer, "lora_A"):
                    setattr(parent, name, _merge_layer(layer))
    merge_trainable_rows(plain.embedding)
    return plain.requires_grad_(requires_grad=True)


def _merge_layer(layer: Any) -> nn.Module:
    layer.merge(safe_merge=True)
    linear: nn.Module = layer.get_base_layer()
    return linear


def _import_peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise OmniError(
            "model.lora needs the package 'peft'; run pip install 'lightning_omni[peft]'"
        ) from error


class _ConcatenateRows(nn.Module):
    """Parametrization of a table as frozen rows followed by trainable rows."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, frozen: Float[Tensor, "K D"], trainable: Float[Tensor, "N D"]) -> Tensor:
        """Concatenate the rows to Float[V D]."""
        return torch.cat((frozen, trainable))

    def right_inverse(self, table: Float[Tensor, "V D"]) -> tuple[Tensor, Tensor]:
        """Split the table into its two parts."""
        return table[: self.start].clone(), table[self.start :].clone()


def make_rows_trainable(embedding: OmniEmbedding, start: int) -> None:
    """Freeze both tables except for the rows from `start` on, which become separate parameters.

    The optimizer then keeps states of those rows only, and weight decay does not touch the others.
    `merge_trainable_rows` reverts it.

    Args:
        embedding: Embedding whose input and output tables are split in place.
        start: First trainable row, from 1 to the number of rows - 1.

    Raises:
        OmniError: If `start` is out of range.
    """
    rows = embedding.tokens.num_embeddings
    if not 0 < start < rows:
        raise OmniError(f"lora.trainable_rows_from is {start}, wanted an id from 1 to {rows - 1}")
    is_tied = embedding.head.weight is embedding.tokens.weight
    tables = [embedding.tokens, embedding.head]
    for table in tables:
        parametrize.register_parametrization(table, "weight", _ConcatenateRows(start))
    first, second = (_parametrization_of(table) for table in tables)
    if is_tied:
        second.original0, second.original1 = first.original0, first.original1
    for parts in (first, second):
        parts.original0.requires_grad = False
        parts.original1.requires_grad = True


def merge_trainable_rows(embedding: OmniEmbedding) -> None:
    """Replace split tables by ordinary ones; an embedding without split tables is left as it is.

    Copies of a split table share its class, so the parametrization is not removed in place.
    """
    tokens, head = embedding.tokens, embedding.head
    if not parametrize.is_parametrized(tokens):
        return
    is_tied = _parametrization_of(tokens).original1 is _parametrization_of(head).original1
    embedding.tokens = nn.Embedding(tokens.num_embeddings, tokens.embedding_dim, device="meta")
    embedding.head = nn.Linear(head.in_features, head.out_features, bias=False, device="meta")
    for new, split in ((embedding.tokens, tokens), (embedding.head, head)):
        new.weight = nn.Parameter(split.weight.detach())
    if is_tied:
        embedding.head.weight = embedding.tokens.weight


def _parametrization_of(table: nn.Module) -> parametrize.ParametrizationList:
    lists = cast("nn.ModuleDict", table.parametrizations)
    return cast("parametrize.ParametrizationList", lists["weight"])
