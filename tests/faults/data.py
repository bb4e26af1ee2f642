"""Shards that are damaged, missing, surplus or swapped."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
