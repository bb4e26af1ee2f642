"""One object that understands and generates text, speech and images in every direction."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.argument_checks import check_seed
from lightning_omni.data.make_template import check_continuous_speech
from lightning_omni.data.transcripts import insert_transcript
from lightning_omni.devices import device_facts, resolve_device
from lightning_omni.errors import OmniError, did_you_mean
from lightning_omni.files import expand_home
from lightning_omni.generation.config import (
    Configs,
    GenerationConfig,
    config_of_modality,
    rename_old_settings,
)
from lightning_omni.generation.decode import Content, GeneratedPart, MediaDecoder
from lightning_omni.generation.generator import PartGenerator
from lightning_omni.generation.lengths import answer_part_name
from lightning_omni.generation.model_folder import ModelFolder, read_model_folder
from lightning_omni.generation.presets import resolve_preset
from lightning_omni.generation.python_values import waveform_as_floats
from lightning_omni.generation.request import (
    Infill,
    Inputs,
    Intervals,
    RequestEncoder,
    check_has_answer_to_generate,
)
from lightning_omni.modalities import MODALITIES, SPEECH
from lightning_omni.nn.computation import computation_facts
from lightning_omni.pretrained import BUNDLED, resolve_pretrained
from lightning_omni.samplers.loop import StepHook
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.types import Sample, Turn

BATCH = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        text: text of the answer; None if it has none. The last one, if there are several.
        image: picture of the answer, likewise.
        speech: mono samples of the answer, likewise.
        sample_rate: samples of speech per second.
        transcript: transcript of a spoken request, if the model writes one before it answers.
        record: task, seed, seconds, device, number format and attention kernel that computed it
            and, by answer part, steps, forward passes and tokens.
        parts: contents of all answer parts in order, without the transcript.
        sample: the sample with its answer, in tokens.
        media: files of the answer by further modality.
    """

    text: str | None
    image: Image.Image | None
    speech: NDArray[np.float32] | None
    sample_rate: int
    transcript: str | None
    record: dict[str, Any]
    parts: tuple[Content, ...]
    sample: Sample
    media: Mapping[str, bytes] = field(default_factory=dict)


class Omni:
    """A trained joint model with its tokenizers.

    Args:
        model: the model, as read from its folder.
        continuous_speech: encoder of a model that reads speech as features.
        device: device to compute on: auto, cpu, cuda or cuda:N.

    Example:
        `Omni.from_pretrained("runs/stage3/export").generate("t2i", text="a green whale").image`
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        continuous_speech: SpeechFeatureEncoder | None = None,
        device: str = "cpu",
    ) -> None:
        check_continuous_speech(model.template.vocab.special_tokens, continuous_speech)
        self.device, self.template = resolve_device(device), model.template
        self.backbone = model.backbone.to(self.device).eval()
        self.image_tokenizer = model.image.to(self.device).eval()
        self.speech_tokenizer = model.speech.to(self.device).eval()
        self.lengths, self.presets = model.lengths, model.presets
        self.voices, self.fingerprint = model.voices, model.fingerprint
        self.encoder = RequestEncoder(
            model, continuous_speech=continuous_speech, device=self.device
        )
        self.generator = PartGenerator(
            self.backbone, self.template, model.lengths, device=self.device
        )
        self.decoder = MediaDecoder(model, device=self.device)

    def describe_computation(self) -> dict[str, str]:
        """Return number formats and attention kernels of all answers so far, for records."""
        return computation_facts(self.backbone, self.generator.dtypes, self.generator.kernels)

    @property
    def request_image_size(self) -> int | None:
        """Side in pixels of pictures in requests; None where it is that of answers."""
        columns, image = self.template.request_image_columns, self.image_tokenizer
        return None if columns == self.template.image_columns else image.downsample_factor * columns

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        continuous_speech: SpeechFeatureEncoder | None = None,
        device: str = "cpu",
    ) -> Omni:
        """Load a folder that a stage exported.

        Args:
            folder: the exported folder.
            continuous_speech: encoder of a model that reads speech as features, as in the recipe it
                was trained by; a folder does not hold it.
            device: device to compute on: auto, cpu, cuda or cuda:N.
        """
        if not isinstance(folder, str | os.PathLike):
            raise OmniError(f"the model is {folder!r}, wanted the folder of an exported model")
        model = read_model_folder(Path(expand_home(os.fspath(folder))))
        return cls(model, continuous_speech=continuous_speech, device=device)

    @classmethod
    def bundled(cls, *, device: str = "cpu") -> Omni:
        """Load the small model that comes with the package."""
        return cls.from_pretrained(resolve_pretrained(BUNDLED), device=device)

    def generate(
        self,
        task: str,
        *,
        text: str | None = None,
        image: Image.Image | None = None,
        speech: NDArray[np.float32] | None = None,
        voice: str | None = None,
        mask: Image.Image | None = None,
        intervals: Intervals | None = None,
        infill: Infill | None = None,
        media: Mapping[str, bytes] | None = None,
        seed: int = 0,
        on_step: StepHook | None = None,
        config: Configs | None = None,
        **options: Any,
    ) -> Answer:
        """Do one task on one input.

        Args:
            task: name of one of the nine tasks.
            text: prompt or question, for tasks with text input.
            image: picture, for tasks with image input; scaled and cut to the tokenizer's size.
            speech: mono samples in [-1, 1] at the speech tokenizer's rate.
            voice: voice to speak with, one of `voices`, for tasks that take one.
            mask: light where `image` is hidden from the model.
            intervals: intervals of `speech` that are hidden from the model, in seconds.
            infill: the answer with blanks, a mask or intervals to generate.
            media: files of further modalities, by modality.
            seed: seed of all randomness; the same seed gives the same answer.
            on_step: called after each denoising step.
            config: settings, for all answer parts or by modality.
            options: fields of `GenerationConfig`, for all answer parts, on top of `config`.

        Raises:
            OmniError: If an input is missing, superfluous or unusable.
        """
        if infill is not None and infill.speech is not None:
            own = waveform_as_floats(infill.speech, "the infill's speech")
            infill = replace(infill, speech=own)
        sample = self.encode_request(
            task,
            text=text,
            image=image,
            speech=speech,
            voice=voice,
            mask=mask,
            intervals=intervals,
            infill=infill,
            media=media,
        )
        (answer,) = self.answer(
            [sample], seed=seed, config=_override_config(config, options), on_step=on_step
        )
        return answer if infill is None else self._blend_with_original(answer, sample, infill)

    def encode_request(self, task: str, **inputs: Unpack[Inputs]) -> Sample:
        """Encode inputs into a sample whose answer is to be generated; see `generate`."""
        return self.encoder.encode(task_named(task), **inputs)

    def answer(
        self,
        samples: list[Sample],
        *,
        seed: int,
        config: Configs | None = None,
        on_step: StepHook | None = None,
    ) -> list[Answer]:
        """Generate the last turn of encoded samples, in batches.

        An answer part without content is generated whole. In a part with content, masked codes and
        blanks `___` are generated; the rest is unchanged.

        Args:
            samples: samples of any tasks and lengths.
            seed: seed of all randomness; sample i is answered as it would be alone with seed + i.
            config: settings, for all answer parts or by modality.
            on_step: called after each denoising step of a batch.

        Raises:
            OmniError: If an answer leaves nothing to generate, the length of a part is unknown, or
                speech is wanted of a tokenizer that cannot decode it.
        """
        check_seed(seed, runs=max(1, len(samples)))
        for sample in samples:
            check_has_answer_to_generate(sample)
            self.encoder.check_speech_form(sample)
            if any(part.modality == SPEECH for part in sample.turns[-1].parts):
                self.speech_tokenizer.check_can_decode()
        samples = [self._add_empty_transcript(sample) for sample in samples]
        config = GenerationConfig() if config is None else config
        answers: list[Answer] = []
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            seeds = [seed + start + i for i in range(len(batch))]
            answers += self._answer_batch(batch, config, seeds, on_step)
        return answers

    def _answer_batch(
        self,
        samples: list[Sample],
        configs: Configs,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[Answer]:
        """Generate part after part; parts of one modality and config run as one batch."""
        start = time.perf_counter()
        samples = list(samples)
        generated: list[dict[str, GeneratedPart]] = [{} for _ in samples]
        for part in range(max(len(sample.turns[-1].parts) for sample in samples)):
            for config, group in self._group_samples(samples, part, configs):
                parts = self.generator.generate(
                    [samples[i] for i in group],
                    part,
                    config,
                    seeds=[seeds[i] for i in group],
                    on_step=on_step,
                )
                for i, one in zip(group, parts, strict=True):
                    generated[i][answer_part_name(samples[i], part)] = one
                    samples[i] = _set_answer_part(samples[i], part, one)
        seconds = round((time.perf_counter() - start) / len(samples), 4)
        return [
            self._decode_answer(sample, seed, seconds, parts)
            for sample, seed, parts in zip(samples, seeds, generated, strict=True)
        ]

    def _group_samples(
        self, samples: list[Sample], part: int, configs: Configs
    ) -> list[tuple[GenerationConfig, list[int]]]:
        """Group the samples that have this part by its modality and config."""
        groups: list[tuple[tuple[str, GenerationConfig], list[int]]] = []
        for i, sample in enumerate(samples):
            for own in sample.turns[-1].parts[part : part + 1]:
                config = config_of_modality(configs, own.modality)
                key = own.modality, resolve_preset(config, sample.task, self.presets)
                members = next((found for other, found in groups if other == key), None)
                if members is None:
                    groups.append((key, [i]))
                else:
                    members.append(i)
        return [(config, members) for (_, config), members in groups]

    def _decode_answer(
        self, sample: Sample, seed: int, seconds: float, generated: dict[str, GeneratedPart]
    ) -> Answer:
        """Decode the answer's parts and write their record."""
        transcript: str | None = None
        last: dict[str, Any] = {}
        contents: list[Content] = []
        for i, part in enumerate(sample.turns[-1].parts):
            content = self.decoder.decode(part)
            if isinstance(content, str) and generated[answer_part_name(sample, i)].span.is_whole:
                content = content.strip()
            if part.is_transcript:
                transcript = str(content)
                continue
            contents.append(content)
            last[part.modality] = content
        record = {
            "task": sample.task,
            "seed": seed,
            "model": self.fingerprint,
            "seconds": seconds,
            "forwards": sum(one.forwards for one in generated.values()),
            "device": device_facts(self.device)["device"],
            **computation_facts(
                self.backbone,
                [p.dtype for p in generated.values() if p.dtype is not None],
                {kernel for p in generated.values() for kernel in p.kernels},
            ),
            "parts": {name: one.to_json() for name, one in generated.items()},
        }
        rate = self.speech_tokenizer.decoded_rate
        text, image, speech = (last.get(name) for name in ("text", "image", "speech"))
        media = {name: content for name, content in last.items() if isinstance(content, bytes)}
        parts = tuple(contents)
        return Answer(text, image, speech, rate, transcript, record, parts, sample, media)

    def _blend_with_original(self, answer: Answer, sample: Sample, infill: Infill) -> Answer:
        """Return an answer whose media are the user's own except where they were masked."""
        masked = {part.modality: part.masked for part in sample.turns[-1].parts}
        blended: dict[str, Any] = {
            name: self.decoder.blend_with_original(getattr(answer, name), own, masked[name])
            for name, own in {"image": infill.image, "speech": infill.speech}.items()
            if own is not None
        }
        parts = tuple(
            blended.get(part.modality, content)
            for part, content in zip(sample.turns[-1].parts, answer.parts, strict=True)
        )
        return replace(answer, parts=parts, **blended)

    def _add_empty_transcript(self, sample: Sample) -> Sample:
        """Begin the answer with an empty transcript if the model was trained to write one."""
        is_transcribed = f"{sample.task}/transcript" in self.lengths
        has_transcript = any(part.is_transcript for part in sample.turns[-1].parts)
        return insert_transcript(sample) if is_transcribed and not has_transcript else sample


def _override_config(config: Configs | None, options: dict[str, Any]) -> Configs:
    """Return a config, or one by modality, with these fields on top."""
    options = rename_old_settings(options)
    known = {f.name for f in fields(GenerationConfig)}
    for name in options:
        if name not in known:
            raise OmniError(
                f"unknown option '{name}'{did_you_mean(name, known)}; `generate` takes the fields "
                "of GenerationConfig"
            )
    if config is None:
        return GenerationConfig(**options)
    if isinstance(config, GenerationConfig):
        return replace(config, **options)
    return {
        modality.name: replace(config_of_modality(config, modality.name), **options)
        for modality in MODALITIES
    }


def _set_answer_part(sample: Sample, part: int, generated: GeneratedPart) -> Sample:
    """Return the sample with a generated answer part."""
    parts = list(sample.turns[-1].parts)
    parts[part] = generated.part
    return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
