"""Builds WebDataset shards from raw corpora: `make prep-data`."""

import lightning_omni  # noqa: F401  old paths of modules are importable with it
