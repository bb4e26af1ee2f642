"""Readers of the published layouts of corpora, one module per layout."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

_HELPERS = (
    "corpus_builder",
    "entries",
    "file_parts",
    "json_list",
    "parquet",
    "passed_over",
    "source_files",
    "tars",
    "text_files",
    "transcripts",
)
CORPORA = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)
"""Names of the layouts: modules of this folder with a function `read(source, *, split)`."""


def load_layout(name: str) -> ModuleType:
    """Return the module that reads a layout.

    `read(source, *, split)` yields the entries of a source. A source that is a file with one of the
    suffixes `SUFFIXES`, or a folder of them, can be read file by file, by `read(file, split=...,
    folder=...)`, where names in the file are relative to the folder; if `read` takes `part`, large
    tars and Parquet files are also read in parts.
    """
    return import_module(f"{__name__}.{name}")
