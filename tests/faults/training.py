"""Training that is killed, signalled, resumed, or meets numbers that are not finite."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
