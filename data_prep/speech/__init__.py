"""Synthetic and recorded speech."""
