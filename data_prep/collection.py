"""Samples of a build by task and split, and their media files, before they are written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from data_prep.keys import check_key
from data_prep.media_file import MediaFile
from data_prep.samples import check_sample
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import SPLITS, Sample


@dataclass
class Collection:
    """Samples and media of a build.

    Every split is self-contained: media used by two splits are stored in both.

    Attributes:
        samples: Samples by (task, split), then by key.
        media: Media files by (modality, split), then by key.
    """

    samples: dict[tuple[str, str], dict[str, Sample]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    media: dict[tuple[str, str], dict[str, MediaFile]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add_sample(self, split: str, sample: Sample, *media: MediaFile) -> None:
        """Add a sample with its media. Adding the same sample twice has no effect.

        Raises:
            OmniError: If the split or task is unknown, a key is malformed, or a medium is missing.
        """
        self.add_media(split, *media)
        check_sample(split, sample, lambda part: part.key in self.media[part.modality, split])
        self.samples[sample.task, split][sample.key] = sample

    def add_media(self, split: str, *media: MediaFile) -> None:
        """Add media without samples, for training the tokenizers.

        Raises:
            OmniError: If a key is malformed.
        """
        for medium in media:
            check_key(medium.key)
            self.media[medium.modality, split].setdefault(medium.key, medium)

    def count_samples(self) -> dict[str, dict[str, int]]:
        """Count samples per task and split."""
        counts: dict[str, dict[str, int]] = {}
        for task in TASK_NAMES:
            found = {s: len(self.samples[task, s]) for s in SPLITS if self.samples.get((task, s))}
            if found:
                counts[task] = found
        return counts

    def count_licences(self, split: str) -> dict[str, int]:
        """Count the media of a split by licence."""
        found = (
            media.values() for (_, own_split), media in self.media.items() if own_split == split
        )
        names = (str(m.info.get("licence", "not stated")) for m in chain.from_iterable(found))
        return dict(sorted(Counter(names).items()))

    def samples_in(self, split: str) -> Iterator[Sample]:
        """Yield all samples of a split."""
        for (_, own_split), samples in self.samples.items():
            if own_split == split:
                yield from samples.values()
