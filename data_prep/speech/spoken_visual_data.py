"""Spoken visual data from written ones: vqa becomes svqa, and t2i becomes s2i.

Source: SDVI, arXiv:2603.06577v1, section 3.3. One voice per question is drawn from many by the
sample's key and the seed; one voice says all answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.hashing import hash_bucket
from data_prep.media_file import MediaFile
from data_prep.samples import make_sample, make_turn, speech_part, text_part
from data_prep.speech.clip_cache import Clip
from data_prep.speech.picture_table import PictureTable
from data_prep.speech.speakable import LeftOut, SpokenText, to_spoken_caption, to_spoken_pair
from data_prep.speech.speaker_pool import SpeakerPool, SpokenLine
from data_prep.speech.synthesizer_config import synthesizer_source_and_licence
from data_prep.speech.voices import Synthesizer
from data_prep.streamed_collection import StreamedCollection
from lightning_omni.data.media import MAX_SECONDS
from lightning_omni.data.shards import parse_sample, read_shard, shard_paths
from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

log = logging.getLogger(__name__)

SPOKEN_TASKS = {"vqa": "svqa", "t2i": "s2i"}
"""Written task: the spoken one that is made of it."""
KEPT = "kept"
_BATCH = 32  # samples that a process speaks at once
_MAX_FAILED = 0.05
_MIN_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class SpeakOptions:
    """How written data are spoken.

    Attributes:
        config: `class_path` and `init_args` of the synthesizer.
        seed: Seed of the voices of questions.
        max_answer_words: Longest answer in words.
        max_samples: Number of samples of a task and split to make; None for all.
        processes: Number of processes that speak.
    """

    config: dict[str, Any]
    seed: int
    max_answer_words: int
    max_samples: int | None
    processes: int


@dataclass(frozen=True, slots=True)
class _PlannedSample:
    """A sample to be spoken.

    Attributes:
        source: The written sample.
        request: The question or caption, and its voice.
        answer: The answer; None if it is a picture.
    """

    source: Sample
    request: SpokenText
    request_line: SpokenLine
    answer: SpokenText | None
    answer_line: SpokenLine | None

    @property
    def spoken_lines(self) -> list[SpokenLine]:
        """Lines of the sample, in the order in which they are said."""
        return [line for line in (self.request_line, self.answer_line) if line is not None]

    @property
    def picture_key(self) -> str:
        """Key of the picture."""
        return next(str(p.key) for t in self.source.turns for p in t.parts if p.modality == "image")


@dataclass
class SpokenVisualBuilder:
    """Speaks the samples of a prepared folder, shard by shard.

    Attributes:
        data: Prepared folder.
        synthesizer: The synthesizer, for its voices.
        options: How the data are spoken.
        pool: Processes that speak.
        clips: Folder of the clips.
        counts: Samples by (spoken task, split), then by rule; `kept` counts those that were made.
    """

    data: Path
    synthesizer: Synthesizer
    options: SpeakOptions
    pool: SpeakerPool
    clips: Path
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def speak_split(
        self, split: str, collection: StreamedCollection, pictures: PictureTable | None
    ) -> None:
        """Add the spoken samples of a split to a collection.

        Args:
            split: Split.
            collection: Collection of this split.
            pictures: Pictures of the split; None if the collection holds them already.

        Raises:
            OmniError: If a shard is damaged, a picture is missing or the synthesizer fails often.
        """
        for task, spoken in SPOKEN_TASKS.items():
            counts = Counter[str]()
            for path in shard_paths(self.data / "tasks", task, split):
                if self._has_enough_samples(counts):
                    break
                self.counts[spoken, split] = counts
                self._speak_shard(path, split, collection, pictures, counts)
                log.info("%s: %d of %d spoken so far", path.name, counts[KEPT], counts.total())
                _check_failed_share(counts)

    def _has_enough_samples(self, counts: Counter[str]) -> bool:
        return counts[KEPT] == self.options.max_samples

    def _speak_shard(
        self,
        path: Path,
        split: str,
        collection: StreamedCollection,
        pictures: PictureTable | None,
        counts: Counter[str],
    ) -> None:
        for batch, results in self.pool.speak_batches(
            _split_into_batches(self._plan_shard(path)), _batch_lines
        ):
            remaining = iter(results)
            for planned in batch:
                if self._has_enough_samples(counts):
                    return
                if isinstance(planned, LeftOut):
                    counts[planned.rule] += 1
                    continue
                seconds = list(islice(remaining, len(planned.spoken_lines)))
                if rule := _synthesis_failure_rule(seconds):
                    counts[rule] += 1
                    continue
                lengths = zip(planned.spoken_lines, seconds, strict=True)
                media = [self._clip_media_file(line, float(length)) for line, length in lengths]
                sample = _make_spoken_sample(planned, media)
                shown = [] if pictures is None else [_find_picture(pictures, planned, path)]
                before = collection.counts[sample.task]
                collection.add_sample(split, sample, *media, *shown)
                is_new = collection.counts[sample.task] > before
                counts[KEPT if is_new else "repeated"] += 1

    def _plan_shard(self, path: Path) -> Iterator[_PlannedSample | LeftOut]:
        """Yield the samples of a shard as they are spoken, or the rule that leaves them out."""
        for key, files in read_shard(path):
            yield self._plan_sample(parse_sample(key, files, path))

    def _plan_sample(self, sample: Sample) -> _PlannedSample | LeftOut:
        texts = _texts_to_speak(sample)
        if isinstance(texts, LeftOut):
            return texts
        voices = self.synthesizer.question_voices
        key = (self.options.seed, sample.key)
        voice = voices[hash_bucket("question voice", *key, num_buckets=len(voices))]
        if len(texts) == 1:
            caption = to_spoken_caption(texts[0])
            if isinstance(caption, LeftOut):
                return caption
            return _PlannedSample(sample, caption, SpokenLine(caption.said, voice), None, None)
        pair = to_spoken_pair(*texts, max_answer_words=self.options.max_answer_words)
        if isinstance(pair, LeftOut):
            return pair
        answer = SpokenLine(pair.answer.said, self.synthesizer.answer_voice)
        return _PlannedSample(
            sample, pair.question, SpokenLine(pair.question.said, voice), pair.answer, answer
        )

    def _clip_media_file(self, line: SpokenLine, seconds: float) -> MediaFile:
        clip = Clip.in_folder(line.text, line.voice, self.clips)
        source, licence = synthesizer_source_and_licence(
            self.options.config, self.synthesizer, line.voice
        )
        info = {"text": line.text, "voice": line.voice, "source": source, "licence": licence}
        return MediaFile(
            clip.key, "speech", "flac", {**info, "duration_s": seconds}, clip.read_flac
        )


def _texts_to_speak(sample: Sample) -> tuple[str, ...] | LeftOut:
    """Return question and answer of a vqa sample, or the caption of a t2i sample."""
    shape = [(t.role, [p.modality for p in t.parts]) for t in sample.turns]
    if sample.task == "vqa" and shape == [("user", ["text", "image"]), ("assistant", ["text"])]:
        question, answer = sample.turns[0].parts[0].text, sample.turns[1].parts[0].text
        return str(question), str(answer)
    if sample.task == "t2i" and shape == [("user", ["text"]), ("assistant", ["image"])]:
        return (str(sample.turns[0].parts[0].text),)
    return LeftOut("layout")


def _split_into_batches(
    planned: Iterable[_PlannedSample | LeftOut],
) -> Iterator[list[_PlannedSample | LeftOut]]:
    remaining = iter(planned)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _batch_lines(batch: list[_PlannedSample | LeftOut]) -> list[SpokenLine]:
    return [line for one in batch if isinstance(one, _PlannedSample) for line in one.spoken_lines]


def _synthesis_failure_rule(seconds: list[float | str]) -> str | None:
    for length in seconds:
        if isinstance(length, str):
            log.warning("left out: %s", length)
            return "not synthesized"
        if length > MAX_SECONDS:
            return "long speech"
    return None


def _check_failed_share(counts: Counter[str]) -> None:
    failed, total = counts["not synthesized"], counts["not synthesized"] + counts[KEPT]
    if total >= _MIN_ATTEMPTS and failed > _MAX_FAILED * total:
        raise OmniError(
            f"the synthesizer failed on {failed} of {total} samples, more than 5 %; the log says "
            "why, correct --synthesizer"
        )


def _find_picture(pictures: PictureTable, planned: _PlannedSample, path: Path) -> MediaFile:
    found = pictures.find_picture(planned.picture_key)
    if found is None:
        raise OmniError(
            f"sample '{planned.source.key}' of '{path}' refers to image '{planned.picture_key}', "
            "not in the media shards; prepare the data again"
        )
    return found


def _make_spoken_sample(planned: _PlannedSample, media: list[MediaFile]) -> Sample:
    """Make the spoken sample; its meta keep those of the written one."""
    shown = next(p for t in planned.source.turns for p in t.parts if p.modality == "image")
    line = planned.request_line
    meta = {**planned.source.meta, "text": line.text, "voice": line.voice}
    if planned.answer is None or planned.answer_line is None:
        turns = (make_turn("user", speech_part(media[0])), make_turn("assistant", shown))
        return make_sample("s2i", *turns, meta=meta)
    meta |= {
        "question": planned.request.written,
        "answer": planned.answer.written,
        "answer_text": planned.answer_line.text,
        "answer_voice": planned.answer_line.voice,
    }
    turns = (
        make_turn("user", speech_part(media[0]), shown),
        make_turn("assistant", text_part(planned.answer.written), speech_part(media[1])),
    )
    return make_sample("svqa", *turns, meta=meta)
