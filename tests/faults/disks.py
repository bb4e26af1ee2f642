"""Full and read-only disks and errors of input and output, in every phase."""

from __future__ import annotations

from fault import Fault

FAULTS: tuple[Fault, ...] = ()
