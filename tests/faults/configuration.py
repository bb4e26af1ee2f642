"""Mistakes in what the user states: typing errors, wrong types, missing files, old checkpoints."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
