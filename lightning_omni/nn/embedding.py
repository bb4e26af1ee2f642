"""Token embeddings that know the geometry of codes, and the output head over any id range."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class CodeSpanFeatures(nn.Module):
    """What codes of one span share: a fixed feature per code, projected into and out of the model.

    A sign-bit code differs from its neighbour in one bit, a residual code from its neighbour by a
    short vector. Without this, the joint model meets every code as a stranger and must see each
    one often; with it, similar codes start out similar.

    The features arrive from the tokenizer through `load`; until then they are zero, which makes
    the span an ordinary embedding.
    """

    features: Tensor

    def __init__(self, start: int, num_codes: int, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.start, self.stop = start, start + num_codes
        self.register_buffer("features", torch.zeros(num_codes, feature_dim))
        self.into = nn.Linear(feature_dim, dim, bias=False)
        self.out_of = nn.Linear(dim, feature_dim, bias=False)

    def load(self, features: Float[Tensor, "N F"]) -> None:
        """Store features scaled to zero mean and unit mean square per dimension."""
        centred = features.float() - features.float().mean(0)
        scale = centred.pow(2).mean(0).sqrt().clamp_min(1e-6)
        self.features.copy_(centred / scale)

    def embed(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Project the features of ids of this span, zero for all other ids."""
        inside = (ids >= self.start) & (ids < self.stop)
        codes = (ids - self.start).clamp(0, self.stop - self.start - 1)
        projected: Tensor = self.into(self.features[codes])
        return projected * inside[:, None].to(projected.dtype)

    def output_rows(self, codes: Int[Tensor, " N"] | slice) -> Float[Tensor, "N D"]:
        """What the features of some codes add to their rows of the output table."""
        rows: Tensor = self.features[codes] @ self.out_of.weight
        return rows


class OmniEmbedding(nn.Module):
    """Ids to vectors and vectors to logits over the joint vocabulary.

    Args:
        vocab_size: Number of ids.
        dim: Width.
        code_spans: `[start, num_codes, feature_dim]` of each span with code features.
        tie_embeddings: Use one table for input and output.
    """

    def __init__(
        self, vocab_size: int, dim: int, *, code_spans: list[list[int]], tie_embeddings: bool
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.spans = nn.ModuleList(
            CodeSpanFeatures(start, size, features, dim) for start, size, features in code_spans
        )
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        for span in self.spans:
            assert isinstance(span, CodeSpanFeatures)  # noqa: S101
            features = span.features.shape[1]
            nn.init.normal_(span.into.weight, std=0.02 / features**0.5)
            nn.init.normal_(span.out_of.weight, std=0.02)
        if tie_embeddings:
            self.head.weight = self.tokens.weight

    def embed(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Look ids up."""
        x: Tensor = self.tokens(ids)
        for span in self.spans:
            x = x + span.embed(ids)  # type: ignore[operator]
        return x

    def logits(
        self, hidden: Float[Tensor, "M D"], ids: Int[Tensor, " G"] | None = None
    ) -> Float[Tensor, "M G"]:
        """Score the ids given (all of the vocabulary when None); column j belongs to `ids[j]`."""
        weight = self.table() if ids is None else self._rows(ids)
        return hidden @ weight.to(hidden.dtype).T

    def table(self) -> Float[Tensor, "V D"]:
        """Output table with every span's features folded in, so that one product scores all."""
        pieces, start = [], 0
        for span in self._ordered():
            here = self.head.weight[span.start : span.stop]
            pieces += [self.head.weight[start : span.start], here + span.output_rows(slice(None))]
            start = span.stop
        return torch.cat((*pieces, self.head.weight[start:])) if pieces else self.head.weight

    def _rows(self, ids: Int[Tensor, " G"]) -> Float[Tensor, "G D"]:
        """Rows of that table."""
        rows: Tensor = self.head.weight[ids]
        for span in self._ordered():
            inside = (ids >= span.start) & (ids < span.stop)
            codes = (ids - span.start).clamp(0, span.stop - span.start - 1)
            rows = rows + span.output_rows(codes) * inside[:, None]
        return rows

    def _ordered(self) -> list[CodeSpanFeatures]:
        spans: list[Any] = sorted(self.spans, key=lambda span: cast("Any", span).start)
        return spans
