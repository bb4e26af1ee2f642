"""Samples with sound: who says what, and what is made of it."""

from __future__ import annotations

from typing import Any

from data_prep.collection import Collection, Media, image, make_sample, say, speech, text
from data_prep.emojiworld.facts import Fact
from data_prep.emojiworld.scene_text import Question
from data_prep.emojiworld.splits import bucket, hashed_order
from data_prep.presets import Cast
from data_prep.speech.cache import Clip
from data_prep.speech.synthesizers import voice_source

_RARE_OF = 10  # a rare voice says one sentence in so many


def input_voices(cast: Cast, sentence: str, count: int) -> list[str]:
    """Pick `count` voices for a sentence by its hash."""
    chosen = hashed_order(cast.inputs, sentence)[:count]
    if cast.rare and bucket("rare", sentence, of=_RARE_OF) == 0:
        chosen[-1] = hashed_order(cast.rare, sentence)[0]
    return chosen


def input_voice(cast: Cast, *about: object) -> str:
    """Pick one voice by hash."""
    voices = cast.rare if cast.rare and bucket("rare", *about, of=_RARE_OF) == 0 else cast.inputs
    return voices[bucket("input", *about, of=len(voices))]


def answer_voice(cast: Cast, *about: object) -> str:
    """Pick the voice of a spoken answer by hash."""
    return cast.answers[bucket("answer", *about, of=len(cast.answers))]


def clip_media(clip: Clip) -> Media:
    """Wrap a synthetic clip for the shards."""
    source, licence = voice_source(clip.voice)
    info = {"text": clip.text, "voice": clip.voice, "source": source, "licence": licence}
    return Media(clip.key, "speech", "flac", {**info, "duration_s": clip.duration_s()}, clip.read)


def add_reading(
    collection: Collection, split: str, recording: Media, kind: str, *, is_target: bool
) -> None:
    """Add an asr sample, and a tts sample where the voice is one to learn."""
    said, voice = recording.info["text"], recording.info["voice"]
    meta = {"set": "speech", "source": kind, "voice": voice, "text": said}
    heard = (say("user", speech(recording)), say("assistant", text(said)))
    collection.add(split, make_sample("asr", *heard, meta=meta), recording)
    if is_target:
        spoken = (say("user", text(said)), say("assistant", speech(recording)))
        collection.add(split, make_sample("tts", *spoken, meta=meta), recording)


def add_spoken_drawing(
    collection: Collection, split: str, prompt: Media, picture: Media, meta: dict[str, Any]
) -> None:
    """Add an s2i sample."""
    told = {"voice": prompt.info["voice"], "text": prompt.info["text"]}
    turns = (say("user", speech(prompt)), say("assistant", image(picture)))
    sample = make_sample("s2i", *turns, meta={**meta, **told})
    collection.add(split, sample, prompt, picture)


def add_spoken_question(
    collection: Collection,
    split: str,
    asked: Media,
    picture: Media,
    answered: Media,
    question: Question,
    meta: dict[str, Any],
) -> None:
    """Add a svqa sample; text and speech of the answer are the same sentence."""
    turns = (
        say("user", speech(asked), image(picture)),
        say("assistant", text(question.sentence), speech(answered)),
    )
    told = {
        "question": question.text,
        "answer": question.answer,
        "kind": question.kind,
        **_voices(asked, answered),
    }
    sample = make_sample("svqa", *turns, meta={**meta, **told})
    collection.add(split, sample, asked, picture, answered)


def add_written_fact(collection: Collection, split: str, fact: Fact) -> None:
    """Add a tqa sample with the bare answer."""
    turns = (say("user", text(fact.question)), say("assistant", text(fact.answer)))
    collection.add(split, make_sample("tqa", *turns, meta=_fact_meta(fact)))


def add_spoken_fact(
    collection: Collection, split: str, fact: Fact, asked: Media, answered: Media
) -> None:
    """Add a sqa sample; text and speech of the answer are the same sentence."""
    turns = (
        say("user", speech(asked)),
        say("assistant", text(fact.sentence), speech(answered)),
    )
    meta = {**_fact_meta(fact), **_voices(asked, answered)}
    collection.add(split, make_sample("sqa", *turns, meta=meta), asked, answered)


def _fact_meta(fact: Fact) -> dict[str, Any]:
    return {
        "set": "fact",
        "fact": fact.question,
        "question": fact.question,
        "answer": fact.answer,
        "topic": fact.topic,
    }


def _voices(asked: Media, answered: Media) -> dict[str, Any]:
    return {
        "voice": asked.info["voice"],
        "text": asked.info["text"],
        "answer_voice": answered.info["voice"],
        "answer_text": answered.info["text"],
    }
