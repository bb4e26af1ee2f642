"""Adapters: corpora in their published layouts become the same shards."""

from __future__ import annotations

from pathlib import Path

CORPORA: dict[str, object] = {}


def prepare_corpus(name: str, source: Path, out: Path, *, split: str) -> None:
    """Todo."""
