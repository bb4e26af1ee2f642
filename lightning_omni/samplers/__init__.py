"""Samplers, one file each: which masks to commit, and to what."""
