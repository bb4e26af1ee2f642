"""Builds WebDataset shards from raw corpora: `make prep-data`."""
