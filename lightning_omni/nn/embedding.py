"""Token embeddings that include codebook embeddings of codes, and the output head."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class CodebookEmbedding(nn.Module):
    """Fixed codebook vectors of one span of codes, projected into and out of the model.

    A lookup-free code is a vector of sign bits, a residual code a sum of codebook vectors, so
    similar codes have similar vectors. With them, similar codes also start with similar embeddings
    instead of independent ones that must each be learned from many occurrences.

    `load` copies the vectors from the tokenizer; until then they are zero, which leaves ordinary
    embeddings.

    Args:
        start: First id of the span.
        num_codes: Number of codes N.
        feature_dim: Size F of a codebook vector.
        dim: Model width D.
    """

    features: Tensor

    def __init__(self, start: int, num_codes: int, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.start, self.stop = start, start + num_codes
        self.register_buffer("features", torch.zeros(num_codes, feature_dim))
        self.into = nn.Linear(feature_dim, dim, bias=False)
        self.out_of = nn.Linear(dim, feature_dim, bias=False)

    def load(self, features: Float[Tensor, "N F"]) -> None:
        """Store codebook vectors, normalised to zero mean and unit mean square per dimension."""
        centred = features.float() - features.float().mean(0)
        scale = centred.pow(2).mean(0).sqrt().clamp_min(1e-6)
        self.features.copy_(centred / scale)

    def embed(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Return projected codebook vectors of ids in this span, and zero for all other ids."""
        inside = (ids >= self.start) & (ids < self.stop)
        codes = (ids - self.start).clamp(0, self.stop - self.start - 1)
        projected: Tensor = self.into(self.features[codes])
        return projected * inside[:, None].to(projected.dtype)

    def output_rows(self, codes: Int[Tensor, " N"] | slice) -> Float[Tensor, "N D"]:
        """Return what the codebook vectors of `codes` add to their rows of the output embedding."""
        rows: Tensor = self.features[codes] @ self.out_of.weight
        return rows


class OmniEmbedding(nn.Module):
    """Input embedding and output head over the joint vocabulary.

    Args:
        vocab_size: Number of ids V.
        dim: Model width D.
        code_spans: `[start, num_codes, feature_dim]` of each span with codebook embeddings.
        tie_embeddings: Use one table for input and output.
    """

    def __init__(
        self, vocab_size: int, dim: int, *, code_spans: list[list[int]], tie_embeddings: bool
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, dim)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.spans = nn.ModuleList(
            CodebookEmbedding(start, size, features, dim) for start, size, features in code_spans
        )
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        for span in self.spans:
            assert isinstance(span, CodebookEmbedding)  # noqa: S101
            features = span.features.shape[1]
            nn.init.normal_(span.into.weight, std=0.02 / features**0.5)
            nn.init.normal_(span.out_of.weight, std=0.02)
        if tie_embeddings:
            self.head.weight = self.tokens.weight

    def embed(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Embed ids."""
        x: Tensor = self.tokens(ids)
        for span in self.spans:
            x = x + span.embed(ids)  # type: ignore[operator]
        return x

    def logits(
        self, hidden: Float[Tensor, "M D"], ids: Int[Tensor, " G"] | None = None
    ) -> Float[Tensor, "M G"]:
        """Score `ids`, or the whole vocabulary if None; column j belongs to `ids[j]`."""
        weight = self.output_embedding() if ids is None else self._output_rows(ids)
        return hidden @ weight.to(hidden.dtype).T

    def output_embedding(self) -> Float[Tensor, "V D"]:
        """Return the output table including codebook embeddings, so that one product scores all."""
        pieces, start = [], 0
        for span in self._spans_in_order():
            here = self.head.weight[span.start : span.stop]
            pieces += [self.head.weight[start : span.start], here + span.output_rows(slice(None))]
            start = span.stop
        return torch.cat((*pieces, self.head.weight[start:])) if pieces else self.head.weight

    def _output_rows(self, ids: Int[Tensor, " G"]) -> Float[Tensor, "G D"]:
        """Return these rows of `output_embedding`."""
        rows: Tensor = self.head.weight[ids]
        for span in self._spans_in_order():
            inside = (ids >= span.start) & (ids < span.stop)
            codes = (ids - span.start).clamp(0, span.stop - span.start - 1)
            rows = rows + span.output_rows(codes) * inside[:, None]
        return rows

    def _spans_in_order(self) -> list[CodebookEmbedding]:
        spans: list[Any] = sorted(self.spans, key=lambda span: cast("Any", span).start)
        return spans
