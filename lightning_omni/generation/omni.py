"""One object that understands and generates text, speech and images in every direction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.templates import check_hears
from lightning_omni.data.transcripts import expecting_transcript
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import Sampling, SamplingOptions, check_seed
from lightning_omni.generation.decode import MediaCoder
from lightning_omni.generation.draft import Draft, Times, check_draft, check_has_medium
from lightning_omni.generation.ears import Ears
from lightning_omni.generation.generator import PartFiller
from lightning_omni.generation.model_folder import ModelFolder, read_model_folder
from lightning_omni.generation.part_draft import (
    PartDraft,
    TextDraft,
    by_place,
    check_part_drafts,
)
from lightning_omni.generation.qualities import resolve
from lightning_omni.generation.request import check_given, choose_voice
from lightning_omni.generation.unused_options import check_used, scope_of_samples
from lightning_omni.pretrained import SHIPPED, locate
from lightning_omni.samplers.loop import StepHook
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.speech_features import ContinuousSpeech
from lightning_omni.types import Part, Sample, Turn

BATCH = 16
Content = str | Image.Image | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answers; absent modalities are None, of several parts it is the last.

    `transcript` is what it heard, if it writes that down before it answers. `record` says how it
    came about: task, seed, steps, guidance, tokens, seconds, whether a hole was grown or never
    closed. `parts` are all parts in order, but for the transcript.
    """

    text: str | None
    image: Image.Image | None
    speech: NDArray[np.float32] | None
    sample_rate: int
    transcript: str | None
    record: dict[str, Any]
    parts: tuple[Content, ...] = ()


class Omni:
    """A trained joint model with its tokenizers.

    Example:
        `Omni.from_pretrained("runs/stage3/export").generate("t2i", text="a green whale").image`
    """

    def __init__(
        self,
        parts: ModelFolder,
        *,
        continuous_speech: ContinuousSpeech | None = None,
        device: str = "cpu",
    ) -> None:
        check_hears(parts.template.vocab.special_tokens, continuous_speech)
        self.device = torch.device(device)
        self.ears = Ears(
            parts.backbone, continuous_speech, trained_with=parts.hears, device=self.device
        )
        self.backbone = parts.backbone.to(self.device).eval()
        self.image_tokenizer = parts.image.to(self.device).eval()
        self.speech_tokenizer = parts.speech.to(self.device).eval()
        self.template, self.lengths = parts.template, parts.lengths
        self.vocab, self.text = parts.template.vocab, parts.template.text
        self.fingerprint, self.voices = parts.fingerprint, parts.voices
        self.qualities = parts.qualities
        self.media = MediaCoder(
            self.image_tokenizer,
            self.speech_tokenizer,
            columns=self.template.image_columns,
            device=self.device,
        )
        self.filler = PartFiller(
            self.backbone,
            self.template,
            self.lengths,
            None if parts.length_head is None else parts.length_head.to(self.device).eval(),
            codebooks=self.speech_tokenizer.num_codebooks,
            device=self.device,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        continuous_speech: ContinuousSpeech | None = None,
        device: str = "cpu",
    ) -> Omni:
        """Load a folder that a stage run exported.

        Args:
            folder: Of the export.
            continuous_speech: By what a model with a projector hears speech: what it was trained
                with. A folder does not hold it, as encoders are classes of anyone's.
            device: Where to compute.
        """
        parts = read_model_folder(Path(folder))
        return cls(parts, continuous_speech=continuous_speech, device=device)

    @classmethod
    def shipped(cls, *, device: str = "cpu") -> Omni:
        """Load the small model that comes with the package."""
        return cls.from_pretrained(locate(SHIPPED), device=device)

    def generate(
        self,
        task: str,
        *,
        text: str | None = None,
        image: Image.Image | None = None,
        speech: NDArray[np.float32] | None = None,
        voice: str | None = None,
        mask: Image.Image | None = None,
        times: Times | None = None,
        draft: Draft | None = None,
        seed: int = 0,
        on_step: StepHook | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """Do one task on one input.

        Args:
            task: One of the nine tasks.
            text: Prompt or question, where the task takes text.
            image: Picture, where the task takes one; it is scaled and cut to the tokenizer's size.
            speech: Mono samples in [-1, 1] at the speech tokenizer's rate.
            voice: Voice to speak with, where the task takes one: one of `voices`.
            mask: Light where `image` is hidden from the model.
            times: Runs of `speech` that are hidden from the model, in seconds.
            draft: What is given of the answer.
            seed: Of all randomness; the same seed gives the same answer.
            on_step: Told of each step.
            sampling: Fields of `Sampling`.

        Raises:
            OmniError: If an input is missing, superfluous or unusable.
        """
        sample = self.ask(
            task, text=text, image=image, speech=speech, voice=voice, mask=mask, times=times
        )
        drafts: dict[int, PartDraft] = {}
        if draft is not None:
            check_draft(task_named(task), draft)
            read = self.read_draft(draft)
            answers = task_named(task).answers
            drafts = {i: read[name] for i, name in enumerate(answers) if name in read}
        return self.complete(sample, drafts, seed=seed, on_step=on_step, **sampling)

    def complete(
        self,
        sample: Sample,
        drafts: Mapping[int, PartDraft],
        *,
        seed: int = 0,
        on_step: StepHook | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """Fill the last turn of an encoded sample, whose parts may be of any kind and order.

        Args:
            sample: Of its last turn only the modalities of the parts count.
            drafts: What is given of the last turn's parts, by their number, transcripts not
                counted; the other parts are filled whole.
            seed: Of all randomness.
            on_step: Told of each step.
            sampling: Fields of `Sampling`.

        Raises:
            OmniError: If a draft does not fit its part, nothing is left to be filled, or the length
                of a part is not known.
        """
        (answer,) = self.answer(
            [sample], seed=seed, sampling=Sampling(**sampling), on_step=on_step, drafts=[drafts]
        )
        return answer

    def answer(
        self,
        samples: list[Sample],
        *,
        seed: int,
        sampling: Sampling | None = None,
        on_step: StepHook | None = None,
        drafts: Sequence[Mapping[int, PartDraft]] | None = None,
        may_be_unused: bool = False,
    ) -> list[Answer]:
        """Answer encoded samples in batches, ignoring the content of their last turn.

        Args:
            samples: Of any tasks and lengths.
            seed: Of all randomness: sample i is answered as it would be alone with seed + i.
            sampling: How to sample; None for the defaults.
            on_step: Told of each step of a batch.
            drafts: Of each sample what is given of its answer: see `complete`.
            may_be_unused: Let options pass that no sample here uses, because others of the caller's
                do.

        Raises:
            OmniError: As `complete`, or if an option has no effect on any answer.
        """
        check_seed(seed, runs=max(1, len(samples)))
        sampling = sampling or Sampling()
        drafts = drafts or [{} for _ in samples]
        for sample, given in zip(samples, drafts, strict=True):
            check_part_drafts(sample, given)
            self.ears.check(sample)
        samples = [self._unanswered(sample) for sample in samples]
        if not may_be_unused:
            check_used(sampling, scope_of_samples(samples, drafts))
        answers: list[Answer] = []
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            seeds = [seed + start + i for i in range(len(batch))]
            given_of = drafts[start : start + BATCH]
            answers += self._answer_batch(batch, sampling, seeds, given_of, on_step)
        return answers

    @torch.inference_mode()
    def ask(
        self,
        task: str,
        *,
        text: str | None = None,
        image: Image.Image | None = None,
        speech: NDArray[np.float32] | None = None,
        voice: str | None = None,
        mask: Image.Image | None = None,
        times: Times | None = None,
    ) -> Sample:
        """Encode inputs into a sample with an empty answer; see `generate`."""
        wanted = task_named(task)
        check_given(wanted, {"text": text, "image": image, "speech": speech})
        check_has_medium("mask", mask, "image", image)
        check_has_medium("times", times, "speech", speech)
        meta = choose_voice(wanted, voice, self.voices)
        parts = []
        for modality in wanted.asks:
            if modality == "text":
                self.text.encode(text or "")
                parts.append(Part("text", text=text))
            elif modality == "image" and image is not None:
                seen = self.media.read_image(image, mask)
                parts.append(
                    Part("image", codes=seen.codes, hidden=tuple(sorted(seen.open_places)))
                )
            elif speech is not None:
                heard = self.media.read_speech(speech, times)
                parts.append(
                    Part(
                        "speech",
                        codes=heard.codes,
                        hidden=tuple(sorted(heard.open_places)),
                        features=self.ears.hear(
                            speech, rate=self.speech_tokenizer.sample_rate, times=times
                        ),
                    )
                )
        answer = tuple(
            Part(modality, text="" if modality == "text" else None) for modality in wanted.answers
        )
        turns = (Turn("user", tuple(parts)), Turn("assistant", answer))
        return Sample("request", task, turns, meta)

    @torch.inference_mode()
    def read_draft(self, draft: Draft) -> dict[str, PartDraft]:
        """Turn a draft into tokens, by modality.

        Raises:
            OmniError: If it cannot be read, or a mask or times leave nothing open.
        """
        read: dict[str, PartDraft] = {}
        if draft.text is not None:
            self.text.encode(draft.text)
            read["text"] = TextDraft.parse(draft.text)
        if draft.image is not None:
            read["image"] = self.media.read_image(draft.image, draft.mask)
        if draft.speech is not None:
            read["speech"] = self.media.read_speech(draft.speech, draft.times)
        return read

    @torch.inference_mode()
    def _answer_batch(
        self,
        samples: list[Sample],
        sampling: Sampling,
        seeds: list[int],
        given: Sequence[Mapping[int, PartDraft]],
        on_step: StepHook | None,
    ) -> list[Answer]:
        """Fill the holes part by part; parts of one modality and way of sampling run together."""
        start = time.perf_counter()
        records: list[dict[str, Any]] = [{} for _ in samples]
        drafts = [by_place(sample, own) for sample, own in zip(samples, given, strict=True)]
        ways = [resolve(sampling, sample.task, self.qualities) for sample in samples]
        for part in range(max(len(s.turns[-1].parts) for s in samples)):
            together: list[tuple[str, Sampling, list[int]]] = []
            for i, sample in enumerate(samples):
                for p in sample.turns[-1].parts[part : part + 1]:
                    _join(together, p.modality, ways[i], i)
            for _, way, chosen in together:
                filled = self.filler.fill_part(
                    [samples[i] for i in chosen],
                    part,
                    way,
                    [records[i] for i in chosen],
                    seeds=[seeds[i] for i in chosen],
                    drafts=[drafts[i].get(part) for i in chosen],
                    on_step=on_step,
                )
                for i, sample in zip(chosen, filled, strict=True):
                    samples[i] = sample
        seconds = round((time.perf_counter() - start) / len(samples), 4)
        return [
            self._decode(
                sample,
                {
                    "task": sample.task,
                    "seed": seed,
                    "model": self.fingerprint,
                    "seconds": seconds,
                    **record,
                },
                own,
            )
            for sample, seed, record, own in zip(samples, seeds, records, drafts, strict=True)
        ]

    def _decode(
        self, sample: Sample, record: dict[str, Any], drafts: Mapping[int, PartDraft]
    ) -> Answer:
        """Turn the answer's parts into media."""
        transcript: str | None = None
        last: dict[str, Any] = {}
        contents: list[Content] = []
        for i, part in enumerate(sample.turns[-1].parts):
            if part.is_transcript:
                transcript = (part.text or "").strip()
                continue
            if part.modality == "text":
                contents.append((part.text or "").strip() if i not in drafts else part.text or "")
            else:
                contents.append(self.media.decode(part, drafts.get(i)))
            last[part.modality] = contents[-1]
        rate = self.speech_tokenizer.sample_rate
        text, image, speech = (last.get(name) for name in ("text", "image", "speech"))
        return Answer(text, image, speech, rate, transcript, record, tuple(contents))

    def _unanswered(self, sample: Sample) -> Sample:
        """Forget the content of the last turn, keep which modalities it has.

        It begins with a transcript if the model was trained to write one.
        """
        if sample.turns[-1].role != "assistant":
            raise OmniError(f"sample '{sample.key}' does not end with an assistant turn")
        parts = tuple(Part(p.modality) for p in sample.turns[-1].parts if not p.is_transcript)
        empty = replace(sample, turns=(*sample.turns[:-1], Turn("assistant", parts)))
        is_transcribed = f"{sample.task}/transcript" in self.lengths
        return expecting_transcript(empty) if is_transcribed else empty


def _join(
    groups: list[tuple[str, Sampling, list[int]]], modality: str, way: Sampling, i: int
) -> None:
    """Put a sample into the group of its modality and way, a new one if there is none."""
    for other, its_way, members in groups:
        if (other, its_way) == (modality, way):
            members.append(i)
            return
    groups.append((modality, way, [i]))
