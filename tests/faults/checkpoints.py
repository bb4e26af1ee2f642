"""Saves that are killed at each file operation, and checkpoints that are damaged or foreign."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
