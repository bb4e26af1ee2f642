"""Tables whose first rows are fixed and whose last rows are trained."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_omni.errors import OmniError
from lightning_omni.nn.embedding import OmniEmbedding

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
