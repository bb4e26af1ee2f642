"""Measure what a model can do, beside chance and beside the truth."""
