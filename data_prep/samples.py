"""Make and check the samples of a build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from data_prep.hashing import sha1_hex
from data_prep.keys import check_key
from data_prep.media_file import MediaFile
from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import SPLITS, Part, Role, Sample, Turn
from lightning_omni.vocab import NATIVE, RELEASED


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
    for part in iter_parts(sample):
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


def make_turn(role: Role, *parts: Part) -> Turn:
    """Build a turn."""
    return Turn(role, parts)


def text_part(content: str) -> Part:
    """Build a text part."""
    return Part("text", text=content)


def image_part(medium: MediaFile) -> Part:
    """Build a part that refers to an image."""
    return Part("image", key=medium.key)


def speech_part(medium: MediaFile) -> Part:
    """Build a part that refers to a recording."""
    return Part("speech", key=medium.key)


def iter_parts(sample: Sample) -> Iterator[Part]:
    """Yield all parts of a sample."""
    for turn in sample.turns:
        yield from turn.parts
