"""Checks for leaks between splits, run on the finished collection before it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data_prep.collection import Collection
from data_prep.emojiworld.sentences import normalize_sentence
from data_prep.emojiworld.splits import HoldOut
from data_prep.samples import iter_parts
from lightning_omni.errors import OmniError
from lightning_omni.types import SPLITS, Sample

_LIKE_TRAINING = ("train", "val", "test_iid")


@dataclass(frozen=True, slots=True)
class HeldOutContent:
    """Content that is held out from training.

    Attributes:
        hold_out: Held-out combinations, H1 to H4.
        styles: Held-out art styles, H5.
        voices: Held-out voices, H6.
        text_only_facts: Questions that training contains as text only, H7.
        silent_objects: Objects that training contains no spoken prompt for, H7.
    """

    hold_out: HoldOut
    styles: frozenset[str]
    voices: frozenset[str]
    text_only_facts: frozenset[str]
    silent_objects: frozenset[str]


def check_splits(collection: Collection, rules: HeldOutContent) -> None:
    """Check that held-out content occurs in tests only.

    Raises:
        OmniError: If a rule is broken; the message names rule and sample.
    """
    for split in _LIKE_TRAINING:
        for sample in collection.samples_in(split):
            for is_broken, rule in _SAMPLE_RULES:
                if is_broken(sample, rules):
                    raise OmniError(
                        f"leak: {sample.task} sample {sample.key} of {split} breaks the rule "
                        f"'{rule}' (meta {sample.meta}); this is a bug of the builder"
                    )
    _check_sentences(collection)
    _check_text_only_facts(collection, rules)
    _check_pictures(collection)


def normalized_texts(samples: Iterable[Sample]) -> set[str]:
    """Return all normalized texts and spoken sentences of the samples."""
    found: set[str] = set()
    for sample in samples:
        found.update(normalize_sentence(part.text) for part in iter_parts(sample) if part.text)
        for name in ("text", "answer_text", "caption", "question"):
            if sample.meta.get(name):
                found.add(normalize_sentence(sample.meta[name]))
    return found


def _has_held_out_key(sample: Sample, rules: HeldOutContent) -> bool:
    return any(tuple(key) in rules.hold_out.keys for key in sample.meta.get("keys", ()))


def _has_held_out_style(sample: Sample, rules: HeldOutContent) -> bool:
    return sample.meta.get("style") in rules.styles


def _has_held_out_voice(sample: Sample, rules: HeldOutContent) -> bool:
    voices = {sample.meta.get("voice"), sample.meta.get("answer_voice")}
    return bool(voices & rules.voices)


def _requests_silent_object(sample: Sample, rules: HeldOutContent) -> bool:
    objects = set(sample.meta.get("objects", ()))
    return sample.task == "s2i" and bool(objects & rules.silent_objects)


def _speaks_text_only_fact(sample: Sample, rules: HeldOutContent) -> bool:
    return sample.task != "tqa" and any(
        sample.meta.get(name) in rules.text_only_facts for name in ("fact", "text")
    )


_SAMPLE_RULES: tuple[tuple[Callable[[Sample, HeldOutContent], bool], str], ...] = (
    (_has_held_out_key, "no held-out combination"),
    (_has_held_out_style, "no held-out style"),
    (_has_held_out_voice, "no held-out voice"),
    (_requests_silent_object, "no spoken prompt for a silent object"),
    (_speaks_text_only_fact, "no text-only fact spoken"),
)


def _check_sentences(collection: Collection) -> None:
    """Check that sentences to transcribe or to read in val and tests are no training texts."""
    trained = normalized_texts(collection.samples_in("train"))
    for split in SPLITS[1:]:
        utterances = [s for s in collection.samples_in(split) if s.task in ("asr", "tts")]
        described = [s for s in collection.samples_in("test_comp") if s.task in ("t2i", "caption")]
        both = (normalized_texts(utterances) | normalized_texts(described)) & trained
        if both:
            raise OmniError(f"leak: '{min(both)}' is a sentence of {split} and of training")


def _check_text_only_facts(collection: Collection, rules: HeldOutContent) -> None:
    read = {s.meta.get("fact") for s in collection.samples_in("train") if s.task == "tqa"}
    missing = rules.text_only_facts - read
    if missing:
        raise OmniError(f"training does not contain the text-only fact '{min(missing)}'")


def _check_pictures(collection: Collection) -> None:
    trained = set(collection.media.get(("image", "train"), {}))
    for split in SPLITS[1:]:
        both = trained & set(collection.media.get(("image", split), {}))
        if both:
            raise OmniError(f"leak: image {min(both)} is in train and in {split}")
