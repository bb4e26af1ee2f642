"""One object that understands and generates text, speech and images in every direction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_omni.arguments import check_within
from lightning_omni.data.media import image_to_tensor, square, tensor_to_image
from lightning_omni.data.tasks import task_named
from lightning_omni.data.template import Hole
from lightning_omni.data.transcripts import expecting_transcript
from lightning_omni.errors import OmniError
from lightning_omni.inference.defaults import defaults_for
from lightning_omni.inference.denoise import conditional, guided
from lightning_omni.inference.folder import ModelFolder, read_model_folder
from lightning_omni.inference.layout import Grammar, make_canvas, pack_prompts, render_prompts
from lightning_omni.inference.lengths import rule_name, source_length
from lightning_omni.inference.request import check_given, choose_voice
from lightning_omni.samplers.base import fill
from lightning_omni.shipped import SHIPPED, locate
from lightning_omni.types import Part, Sample, Turn

log = logging.getLogger(__name__)

BATCH = 16
MAX_GROWTHS = 2
MAX_SEED = 2**63 - 1
MAX_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE = 4096, 100.0, 100.0
StepHook = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answers; absent modalities are None.

    `transcript` is what it heard, if it writes that down before it answers. `record` says how it
    came about: task, seed, steps, guidance, tokens, seconds, whether a hole was grown or never
    closed.
    """

    text: str | None
    image: Image.Image | None
    speech: NDArray[np.float32] | None
    sample_rate: int
    transcript: str | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to sample; None takes the task's default.

    Raises:
        OmniError: If a number is out of its range.
    """

    seed: int
    num_steps: int | None = None
    guidance_scale: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_within("seed", self.seed, 0, MAX_SEED)
        if self.num_steps is not None:
            check_within("steps", self.num_steps, 1, MAX_STEPS)
        if self.guidance_scale is not None:
            check_within("guidance", self.guidance_scale, 0, MAX_GUIDANCE)
        if self.temperature is not None:
            check_within("temperature", self.temperature, 0, MAX_TEMPERATURE)


class Omni:
    """A trained joint model with its tokenizers.

    Example:
        `Omni.from_pretrained("runs/stage3/export").generate("t2i", text="a green whale").image`
    """

    def __init__(self, parts: ModelFolder, *, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.backbone = parts.backbone.to(self.device).eval()
        self.image_tokenizer = parts.image.to(self.device).eval()
        self.speech_tokenizer = parts.speech.to(self.device).eval()
        self.template, self.lengths = parts.template, parts.lengths
        self.vocab, self.text = parts.template.vocab, parts.template.text
        self.fingerprint, self.voices = parts.fingerprint, parts.voices
        self.grammar = Grammar(self.vocab, self.speech_tokenizer.num_codebooks, device=self.device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu") -> Omni:
        """Load a folder that a stage run exported."""
        return cls(read_model_folder(Path(folder)), device=device)

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
        seed: int = 0,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        on_step: StepHook | None = None,
    ) -> Answer:
        """Do one task on one input.

        Args:
            task: One of the nine tasks.
            text: Prompt or question, where the task takes text.
            image: Picture, where the task takes one; it is scaled and cut to the tokenizer's size.
            speech: Mono samples in [-1, 1] at the speech tokenizer's rate.
            voice: Voice to speak with, where the task takes one: one of `voices`.
            seed: Of all randomness; the same seed gives the same answer.
            num_steps: Denoising steps of each hole.
            guidance_scale: Of classifier-free guidance.
            temperature: 0 takes the likeliest tokens.
            on_step: Told the number and the ids after each step.

        Raises:
            OmniError: If an input is missing, superfluous or unusable.
        """
        sample = self.ask(task, text=text, image=image, speech=speech, voice=voice)
        settings = Settings(seed, num_steps, guidance_scale, temperature)
        return self._answer_batch([sample], settings, on_step)[0]

    def answer(
        self,
        samples: list[Sample],
        *,
        seed: int,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        on_step: StepHook | None = None,
    ) -> list[Answer]:
        """Answer encoded samples in batches, ignoring the content of their last turn.

        Options are those of `generate`; `on_step` is told the packed ids of a batch.
        """
        settings = Settings(seed, num_steps, guidance_scale, temperature)
        answers: dict[int, Answer] = {}
        by_task: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            by_task.setdefault(sample.task, []).append(i)
        for indices in by_task.values():
            for start in range(0, len(indices), BATCH):
                chunk = indices[start : start + BATCH]
                results = self._answer_batch([samples[i] for i in chunk], settings, on_step)
                answers.update(zip(chunk, results, strict=True))
        return [answers[i] for i in range(len(samples))]

    @torch.inference_mode()
    def ask(
        self,
        task: str,
        *,
        text: str | None = None,
        image: Image.Image | None = None,
        speech: NDArray[np.float32] | None = None,
        voice: str | None = None,
    ) -> Sample:
        """Encode inputs into a sample with an empty answer."""
        wanted = task_named(task)
        check_given(wanted, {"text": text, "image": image, "speech": speech})
        meta = choose_voice(wanted, voice, self.voices)
        parts = []
        for modality in wanted.asks:
            if modality == "text":
                self.text.encode(text or "")
                parts.append(Part("text", text=text))
            elif modality == "image" and image is not None:
                parts.append(Part("image", codes=self._encode_image(image)))
            elif speech is not None:
                parts.append(Part("speech", codes=self._encode_speech(speech)))
        answer = tuple(
            Part(modality, text="" if modality == "text" else None) for modality in wanted.answers
        )
        turns = (Turn("user", tuple(parts)), Turn("assistant", answer))
        return Sample("request", task, turns, meta)

    def _encode_image(self, image: Image.Image) -> tuple[int, ...]:
        pixels = image_to_tensor(square(image.convert("RGB"), self.image_tokenizer.image_size))
        return tuple(self.image_tokenizer.encode(pixels[None].to(self.device))[0].tolist())

    def _encode_speech(self, speech: NDArray[np.float32]) -> tuple[int, ...]:
        wave = torch.from_numpy(np.ascontiguousarray(speech, dtype=np.float32))[None]
        rate = self.speech_tokenizer.sample_rate
        codes = self.speech_tokenizer.encode(wave.to(self.device), sample_rate=rate)
        return tuple(codes[0].tolist())

    @torch.inference_mode()
    def _answer_batch(
        self, samples: list[Sample], settings: Settings, on_step: StepHook | None
    ) -> list[Answer]:
        """Fill the holes of samples of one task, part by part."""
        start = time.perf_counter()
        records: list[dict[str, Any]] = [{} for _ in samples]
        samples = [self._unanswered(sample) for sample in samples]
        for part in range(len(samples[0].turns[-1].parts)):
            samples = self._fill_part(samples, part, settings, records, on_step)
        seconds = (time.perf_counter() - start) / len(samples)
        common = {
            "task": samples[0].task,
            "seed": settings.seed,
            "model": self.fingerprint,
            "seconds": round(seconds, 4),
        }
        return [
            self._decode(sample, {**common, **record})
            for sample, record in zip(samples, records, strict=True)
        ]

    def _fill_part(
        self,
        samples: list[Sample],
        part: int,
        settings: Settings,
        records: list[dict[str, Any]],
        on_step: StepHook | None,
    ) -> list[Sample]:
        """Fill one answer part of every sample, growing holes whose answer did not end."""
        done = list(samples)
        todo = list(range(len(samples)))
        growth = 1.0
        modality = samples[0].turns[-1].parts[part].modality
        for attempt in range(MAX_GROWTHS + 1):
            chosen = [samples[i] for i in todo]
            filled = self._fill_holes(chosen, part, growth, settings, on_step)
            unfinished = []
            for i, (ids, steps) in zip(todo, filled, strict=True):
                content, closed = self._content(modality, ids)
                done[i] = _with_answer(samples[i], part, content, self)
                name = rule_name(samples[i], part).partition("/")[2]
                records[i].setdefault("holes", {})[name] = {
                    "modality": modality,
                    "positions": len(ids),
                    "steps": steps,
                    "grown": attempt,
                    "closed": closed,
                    "ids": ids,
                }
                if not closed:
                    unfinished.append(i)
            todo, growth = unfinished, growth * 1.5
            if not todo:
                break
        return done

    def _fill_holes(
        self,
        samples: list[Sample],
        part: int,
        growth: float,
        settings: Settings,
        on_step: StepHook | None,
    ) -> list[tuple[list[int], int]]:
        """Run the reverse process for one part; returns the hole's ids and steps per sample."""
        modality = samples[0].turns[-1].parts[part].modality
        defaults = defaults_for(samples[0].task, modality)
        lengths = [self._hole_length(sample, part, growth) for sample in samples]
        prompts = self._prompts(samples, lengths, part, drop=False)
        packed = pack_prompts(prompts, device=self.device)
        steps = [settings.num_steps or defaults.num_steps(length) for length in lengths]
        steps = [min(s, length) for s, length in zip(steps, lengths, strict=True)]
        canvas = make_canvas(prompts, packed, self.grammar, num_steps=steps, vocab=self.vocab)
        scale = (
            defaults.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
        )
        if scale:
            bare = pack_prompts(
                self._prompts(samples, lengths, part, drop=True), device=self.device
            )
            denoise = guided(self.backbone, packed, bare, scale=scale)
        else:
            denoise = conditional(self.backbone, packed)
        rng = torch.Generator(self.device).manual_seed(settings.seed)
        sampler = defaults.sampler(settings.temperature)
        ids = fill(denoise, canvas, sampler, rng=rng, on_step=on_step).tolist()
        first = [(canvas.sample == n).nonzero()[0].item() for n in range(len(samples))]
        return [
            (ids[int(f) + holes[0].start : int(f) + holes[0].stop], step)
            for f, (_, holes), step in zip(first, prompts, steps, strict=True)
        ]

    def _prompts(
        self, samples: list[Sample], lengths: list[int], part: int, *, drop: bool
    ) -> list[tuple[Any, list[Hole]]]:
        return render_prompts(self.template, samples, lengths, part=part, drop_condition=drop)

    def _hole_length(self, sample: Sample, part: int, growth: float) -> int:
        """Positions of the hole of an answer part."""
        modality = sample.turns[-1].parts[part].modality
        if modality == "image":
            return self.template.image_columns**2
        rule = self.lengths.get(rule_name(sample, part))
        if rule is None:
            raise OmniError(
                f"this model was not trained on task '{sample.task}'; it knows "
                f"{', '.join(sorted({name.split('/')[0] for name in self.lengths}))}"
            )
        codebooks = self.speech_tokenizer.num_codebooks if modality == "speech" else 1
        source = source_length(sample, part)
        if rule.largest and source > rule.largest:
            log.warning(
                "%s: the input is %.1f times as long as any in training; expect a poor answer",
                *(sample.task, source / rule.largest),
            )
        length = int(rule.positions(source) * growth)
        return max(-(-length // codebooks) * codebooks, codebooks)

    def _content(self, modality: str, ids: list[int]) -> tuple[list[int], bool]:
        """Cut a filled hole at its terminator; the flag says whether there was one."""
        if modality == "image":
            return ids, True
        ends = (self.vocab.pad_token_id, self.vocab.special("<|end_of_speech|>"))
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        content = ids if stop is None else ids[:stop]
        if modality == "speech":
            codebooks = self.speech_tokenizer.num_codebooks
            content = content[: len(content) // codebooks * codebooks]
        return content, stop is not None

    def _decode(self, sample: Sample, record: dict[str, Any]) -> Answer:
        """Turn the answer's parts into media."""
        transcript, text, image, speech = None, None, None, None
        for part in sample.turns[-1].parts:
            if part.is_transcript:
                transcript = (part.text or "").strip()
                continue
            if part.modality == "text":
                text = (part.text or "").strip()
                continue
            codes = torch.tensor([list(part.codes or ())], device=self.device, dtype=torch.long)
            if part.modality == "image":
                rows = self.template.image_columns
                image = tensor_to_image(self.image_tokenizer.decode(codes, rows=rows)[0])
            elif codes.shape[1] == 0:
                speech = np.zeros(0, dtype=np.float32)
            else:
                speech = self.speech_tokenizer.decode(codes)[0].float().cpu().numpy()
        rate = self.speech_tokenizer.sample_rate
        return Answer(text, image, speech, rate, transcript, record)

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


def _with_answer(sample: Sample, part: int, ids: list[int], omni: Omni) -> Sample:
    """Write a filled hole into the sample."""
    parts = list(sample.turns[-1].parts)
    modality = parts[part].modality
    if modality == "text":
        parts[part] = replace(parts[part], text=omni.text.decode(ids))
    else:
        parts[part] = Part(modality, codes=tuple(omni.vocab.to_codes(modality, ids)))
    return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
