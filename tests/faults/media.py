"""Malformed and hostile media, text, archives and configuration files."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
