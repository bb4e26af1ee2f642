"""True answers with something taken out, filled anew, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch

from lightning_omni.data.media import square
from lightning_omni.evaluation.answerers import Reconstructor
from lightning_omni.evaluation.examples import Case, Reply, part_of, without_answer
from lightning_omni.evaluation.run import reply_of
from lightning_omni.generation.composite import compose_speech
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.part_draft import ImageDraft, PartDraft, SpeechDraft, TextDraft
from lightning_omni.types import Part, Sample, Turn

GAP_S = 0.4
"""Seconds of speech that are said anew."""
Replies = dict[str, list[Reply]]


@dataclass(frozen=True, slots=True)
class Refiller:
    """Takes something out of true answers and fills it anew.

    Attributes:
        omni: Fills.
        reconstructor: Decodes the true answers' codes.
        sampling: How to sample.
        seed: Of sampling, and of what is taken out.
        batch_size: Cases filled at once.
    """

    omni: Omni
    reconstructor: Reconstructor
    sampling: Sampling
    seed: int
    batch_size: int

    def words(self, cases: Sequence[Case]) -> Replies:
        """One word of each caption; without the picture only the others tell what it was."""
        drafts: list[PartDraft] = []
        for case in cases:
            words = (case.wanted.text or "").split()
            words[self._draw(case).randrange(len(words))] = "___"
            drafts.append(TextDraft.parse(" ".join(words)))
        questions = [without_answer(case.sample) for case in cases]
        return {
            "word": self._fill(questions, drafts),
            "word_without_picture": self._fill([_asking(q, _hidden) for q in questions], drafts),
        }

    def halves(self, cases: Sequence[Case]) -> Replies:
        """The left half of each picture; without the caption only the right one tells the scene."""
        columns, size = self.omni.template.image_columns, self.omni.image_tokenizer.image_size
        left = frozenset(i for i in range(columns**2) if i % columns < columns // 2)
        drafts: list[PartDraft] = []
        for case in cases:
            assert case.wanted.image is not None  # noqa: S101 - the task draws
            pixels = square(case.wanted.image, size)
            drafts.append(ImageDraft(_codes(case, "image"), left, pixels))
        questions = [without_answer(case.sample) for case in cases]
        return {
            "picture": [case.wanted for case in cases],
            "picture_as_codes": self._decoded(cases),
            "half": self._fill(questions, drafts),
            "half_without_caption": self._fill([_asking(q, _empty) for q in questions], drafts),
        }

    def bits(self, cases: Sequence[Case]) -> Replies:
        """`GAP_S` of each recording; silence in its place shows what is lost without it."""
        tokenizer = self.omni.speech_tokenizer
        length, codebooks = round(GAP_S * tokenizer.frame_rate), tokenizer.num_codebooks
        hop, rate = tokenizer.hop_length, tokenizer.sample_rate
        drafts: list[PartDraft] = []
        silenced = []
        for case in cases:
            codes, wave = _codes(case, "speech"), case.wanted.speech
            assert wave is not None  # noqa: S101 - the task speaks
            num_frames = len(codes) // codebooks
            start = self._draw(case).randrange(max(1, num_frames - length))
            frames = range(start, min(start + length, num_frames))
            places = range(frames.start * codebooks, frames.stop * codebooks)
            drafts.append(SpeechDraft(codes, frozenset(places), wave))
            quiet = compose_speech(0 * wave, wave, frames, hop_length=hop, rate=rate)
            silenced.append(replace(case.wanted, speech=quiet))
        return {
            "speech": [case.wanted for case in cases],
            "speech_as_codes": self._decoded(cases),
            "bit_silenced": silenced,
            "bit": self._fill([without_answer(case.sample) for case in cases], drafts),
        }

    @torch.inference_mode()
    def _fill(self, questions: Sequence[Sample], drafts: Sequence[PartDraft]) -> list[Reply]:
        """One reply each; the draft is of the answer's first part."""
        replies: list[Reply] = []
        for start in range(0, len(questions), self.batch_size):
            span = slice(start, start + self.batch_size)
            answers = self.omni.answer(
                list(questions[span]),
                seed=self.seed + start,
                sampling=self.sampling,
                drafts=[{0: draft} for draft in drafts[span]],
                may_be_unused=True,
            )
            replies += map(reply_of, answers)
        return replies

    def _decoded(self, cases: Sequence[Case]) -> list[Reply]:
        return [self.reconstructor.decode(case.sample, "assistant") for case in cases]

    def _draw(self, case: Case) -> Random:
        return Random(f"{self.seed}/{case.sample.key}")


def _codes(case: Case, modality: str) -> tuple[int, ...]:
    part = part_of(case.sample, "assistant", modality)
    return part.codes or () if part else ()


def _asking(question: Sample, change: Callable[[Part], Part]) -> Sample:
    """The question with every part of the user changed."""
    turns = tuple(
        Turn(t.role, tuple(map(change, t.parts))) if t.role == "user" else t for t in question.turns
    )
    return replace(question, turns=turns)


def _hidden(part: Part) -> Part:
    return replace(part, hidden=tuple(range(len(part.codes or ()))))


def _empty(part: Part) -> Part:
    return replace(part, text="")
