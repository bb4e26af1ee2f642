"""Low-rank adapters and trainable rows of new tokens."""

from __future__ import annotations

import copy
import importlib
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_omni.errors import OmniError, check_within
from lightning_omni.nn.embedding import OmniEmbedding
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


PARTS = ".parametrizations.weight.original"
"""What the names of a split table's two parts have before their number."""


class _Joined(nn.Module):
    """Two parts of a table as one."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, fixed: Float[Tensor, "K D"], trained: Float[Tensor, "N D"]) -> Tensor:
        """The whole table, Float[V D]."""
        return torch.cat((fixed, trained))

    def right_inverse(self, table: Float[Tensor, "V D"]) -> tuple[Tensor, Tensor]:
        """Its parts."""
        return table[: self.start].clone(), table[self.start :].clone()


def train_rows_from(embedding: OmniEmbedding, start: int) -> None:
    """Fix both tables but for the rows from `start` on, which become parameters of their own.

    So an optimizer keeps states of those rows alone, and weight decay leaves the others as they
    are. `whole` undoes it.

    Raises:
        OmniError: If the tables have no such rows.
    """
    rows = embedding.tokens.num_embeddings
    if not 0 < start < rows:
        raise OmniError(f"lora.rows_from is {start}, wanted an id from 1 to {rows - 1}")
    is_tied = embedding.head.weight is embedding.tokens.weight
    tables = [embedding.tokens, embedding.head]
    for table in tables:
        parametrize.register_parametrization(table, "weight", _Joined(start))
    first, second = (_parts(table) for table in tables)
    if is_tied:
        second.original0, second.original1 = first.original0, first.original1
    for parts in (first, second):
        parts.original0.requires_grad = False
        parts.original1.requires_grad = True


def whole(embedding: OmniEmbedding) -> None:
    """Put ordinary tables in the place of split ones; others stay as they are.

    Copies of a split table share its class, so a split is not undone in place.
    """
    tokens, head = embedding.tokens, embedding.head
    if not parametrize.is_parametrized(tokens):
        return
    is_tied = _parts(tokens).original1 is _parts(head).original1
    embedding.tokens = nn.Embedding(tokens.num_embeddings, tokens.embedding_dim, device="meta")
    embedding.head = nn.Linear(head.in_features, head.out_features, bias=False, device="meta")
    for new, split in ((embedding.tokens, tokens), (embedding.head, head)):
        new.weight = nn.Parameter(split.weight.detach())
    if is_tied:
        embedding.head.weight = embedding.tokens.weight


def _parts(table: nn.Module) -> parametrize.ParametrizationList:
    lists = cast("nn.ModuleDict", table.parametrizations)
    return cast("parametrize.ParametrizationList", lists["weight"])
