"""What was fetched from URLs, and how often something had to be fetched again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReadCounts:
    """Numbers of one process.

    Attributes:
        requests: Requests that were sent.
        bytes_fetched: Bytes of bodies that came.
        retries: Requests that were sent again.
        short_reads: Answers that ended early.
        damaged: Cached blocks and samples with another checksum, fetched again.
        uncached: Blocks that the cache could not take.
        ranges_ahead: Ranges of shards that threads fetched before they were read.
    """

    requests: int = 0
    bytes_fetched: int = 0
    retries: int = 0
    short_reads: int = 0
    damaged: int = 0
    uncached: int = 0
    ranges_ahead: int = 0

    @property
    def num_faults(self) -> int:
        """Number of things that went wrong."""
        return self.retries + self.damaged + self.uncached

    def describe(self) -> str:
        """Return the numbers in words."""
        words = f"{self.requests:,} requests, {self.bytes_fetched / 1e6:,.1f} MB"
        names = [f.name for f in fields(self)][2:]
        found = [(name.replace("_", " "), getattr(self, name)) for name in names]
        return ", ".join([words, *(f"{number:,} {name}" for name, number in found if number)])


def sum_read_counts(parts: Iterable[ReadCounts]) -> ReadCounts:
    """Return the sums of the numbers of several processes."""
    return ReadCounts(*map(sum, zip(astuple(ReadCounts()), *map(astuple, parts), strict=True)))


def log_read_counts(counts: ReadCounts) -> None:
    """Log what was read from URLs, as a warning if something had to be fetched again."""
    if counts.requests:
        level = logging.WARNING if counts.num_faults else logging.INFO
        log.log(level, "read from URLs: %s", counts.describe())
