"""Trains and measures the arms of an experiment over several seeds."""
