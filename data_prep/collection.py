"""Samples of a build by task and split, and their media files, before they are written."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from data_prep.hashing import sha1_hex
from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import SPLITS, Part, Role, Sample, Turn
from lightning_omni.vocab import NATIVE, RELEASED

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file of the media shards.

    Attributes:
        key: Unique key within its modality and split.
        modality: `image` or `speech`.
        extension: File extension without dot.
        info: Facts stored as JSON beside the file.
        load: Returns the bytes; called when the shard is written.
    """

    key: str
    modality: str
    extension: str
    info: dict[str, Any]
    load: Callable[[], bytes] = field(repr=False)


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

    def add(self, split: str, sample: Sample, *media: MediaFile) -> None:
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

    def counts(self) -> dict[str, dict[str, int]]:
        """Count samples per task and split."""
        counts: dict[str, dict[str, int]] = {}
        for task in TASK_NAMES:
            found = {s: len(self.samples[task, s]) for s in SPLITS if self.samples.get((task, s))}
            if found:
                counts[task] = found
        return counts

    def licences(self, split: str) -> dict[str, int]:
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


def check_sample(split: str, sample: Sample, is_stored: Callable[[Part], bool]) -> None:
    """Check that a sample can be stored.

    Args:
        split: Split that the sample belongs to.
        sample: The sample.
        is_stored: Returns whether the medium that a part refers to is in the split.

    Raises:
        OmniError: If the split or task is unknown, a key is malformed, or a medium is missing.
    """
    if split not in SPLITS:
        raise OmniError(f"unknown split '{split}'; wanted one of {', '.join(SPLITS)}")
    if sample.task not in TASK_NAMES:
        raise OmniError(f"unknown task '{sample.task}'; wanted one of {', '.join(TASK_NAMES)}")
    for part in parts_of(sample):
        if part.key is not None and not is_stored(part):
            raise OmniError(
                f"sample {sample.key} refers to {part.modality} '{part.key}', which is not in "
                f"the split {split}"
            )
    check_key(sample.key)


def make_sample(task: str, *turns: Turn, meta: dict[str, Any]) -> Sample:
    """Make a sample whose key is the hash of its content, so that sorting by key shuffles.

    Raises:
        OmniError: If a text contains a special token or is no Unicode text.
    """
    plain = Sample("", task, turns, meta).to_json()
    try:
        json.dumps(plain, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise OmniError("a text holds half a character (a surrogate); write it again") from error
    for turn in turns:
        for part in turn.parts:
            if part.text is not None:
                check_no_special_tokens(part.text)
    return Sample(sha1_hex(json.dumps(plain, sort_keys=True))[:20], task, turns, meta)


def check_no_special_tokens(text: str) -> None:
    """Reject text that contains special tokens of the chat template.

    Raises:
        OmniError: If the text contains a special token or a media placeholder.
    """
    for token in (*NATIVE.names, *RELEASED.names):
        if token in text:
            raise OmniError(f"the text contains the special token {token}; remove it")


def turn(role: Role, *parts: Part) -> Turn:
    """Build a turn."""
    return Turn(role, parts)


def text(content: str) -> Part:
    """Build a text part."""
    return Part("text", text=content)


def image(medium: MediaFile) -> Part:
    """Build a part that refers to an image."""
    return Part("image", key=medium.key)


def speech(medium: MediaFile) -> Part:
    """Build a part that refers to a recording."""
    return Part("speech", key=medium.key)


def parts_of(sample: Sample) -> Iterator[Part]:
    """Yield all parts of a sample."""
    for turn in sample.turns:
        yield from turn.parts


def check_key(key: str) -> None:
    """Reject a key that is no plain name.

    Raises:
        OmniError: If the key is malformed.
    """
    if KEY_PATTERN.fullmatch(key) is None:
        raise OmniError(f"key '{key}' is malformed; wanted 1 to 128 of A-Z a-z 0-9 _ -")
