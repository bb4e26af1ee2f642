"""Readers of the published layouts of corpora, one module per layout."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module

from data_prep.corpora.entries import Entry

_HELPERS = (
    "corpus_builder",
    "entries",
    "json_list",
    "parquet",
    "source_files",
    "tars",
    "text_files",
    "transcripts",
)
CORPORA = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)
"""Names of the layouts: modules of this folder with a function `read(source, *, split)`."""


def load_corpus_reader(name: str) -> Callable[..., Iterator[Entry]]:
    """Return the function that reads a layout."""
    read: Callable[..., Iterator[Entry]] = import_module(f"{__name__}.{name}").read
    return read
