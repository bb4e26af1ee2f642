"""Losses of the tokenizers."""
