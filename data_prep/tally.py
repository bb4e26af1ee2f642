"""What became of a corpus's entries, and when too many of them are unusable."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

MAX_UNUSABLE_SHARE = 0.05
EARLIEST_STOP = 1000
MAX_LISTED = 1000


class UnusableCorpusError(OmniError):
    """A corpus gives no data, or too many of its entries are unusable."""


@dataclass
class Tally:
    """Numbers of entries.

    Attributes:
        good: Entries that became samples.
        bad: Unusable entries, those in unreadable parts of files among them.
        left_out: Origin and reason of the first `MAX_LISTED` unusable entries.
        good_before: For each unusable entry outside unreadable files, the good ones before it.
        max_share: Largest share of unusable entries that is skipped; above it, a corpus is refused.
    """

    good: int = 0
    bad: int = 0
    left_out: list[str] = field(default_factory=list)
    good_before: list[int] = field(default_factory=list)
    max_share: float = MAX_UNUSABLE_SHARE

    def leave_out(self, origin: str, reason: str, entries: int = 1) -> None:
        """Count unusable entries.

        Args:
            origin: File and row.
            reason: What is wrong.
            entries: Number of entries that are lost; 1 for a row.
        """
        self.bad += entries
        if len(self.left_out) < MAX_LISTED:
            line = f"{origin}: {reason}".encode("utf-8", "backslashreplace").decode("utf-8")
            self.left_out.append(line)
            log.warning("left out %s", line)
        if entries == 1:
            self.good_before.append(self.good)

    def check_rows(self, known: int = 0) -> None:
        """Check the share of unusable rows at each of them, from `EARLIEST_STOP` entries on.

        So a corpus that cannot pass stops soon. Damaged files count in the end only.

        Args:
            known: Number of unusable rows that were checked before.

        Raises:
            UnusableCorpusError: If a greater share than `max_share` is unusable.
        """
        for number, good in enumerate(self.good_before[known:], known + 1):
            if good + number >= EARLIEST_STOP:
                self._check(number, good)

    def check_all(self, corpus: str) -> None:
        """Check the share of unusable entries of a whole corpus.

        Raises:
            UnusableCorpusError: If there are no entries, or too many are unusable.
        """
        if self.good + self.bad == 0:
            raise UnusableCorpusError(f"found no entries of a {corpus} corpus; check --source")
        self._check(self.bad, self.good)

    def add(self, later: Tally) -> None:
        """Add the numbers of what follows in the corpus.

        Raises:
            UnusableCorpusError: If too many are unusable so far.
        """
        known = len(self.good_before)
        self.good_before += [self.good + good for good in later.good_before]
        self.left_out += later.left_out[: MAX_LISTED - len(self.left_out)]
        self.good += later.good
        self.bad += later.bad
        self.check_rows(known)

    def _check(self, bad: int, good: int) -> None:
        if bad > self.max_share * (bad + good):
            raise UnusableCorpusError(
                f"{bad} of {bad + good} entries are unusable, more than {self.max_share:.4g} of "
                "them (--max-unusable); "
                f"the first is {self.left_out[0]}"
            )
