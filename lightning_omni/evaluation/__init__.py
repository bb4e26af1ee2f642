"""Benchmarks of trained models: responses to test examples, scored beside baseline and bound."""
