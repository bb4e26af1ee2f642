"""The `evaluate-infilling` verb: masked words, halves of pictures and intervals of speech."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from lightning_omni.argument_checks import check_seed, check_within
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.evaluation.codec_reconstruction import CodecReconstructor
from lightning_omni.evaluation.command import check_tasks, load_model_and_suite
from lightning_omni.evaluation.examples import Example, Response, as_model_input, first_part
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.responses import to_response
from lightning_omni.evaluation.statistics import summarize_metric
from lightning_omni.evaluation.suite import Plan
from lightning_omni.files import make_folder
from lightning_omni.generation.blending import blend_speech
from lightning_omni.generation.config import GenerationConfig, config_to_dict
from lightning_omni.generation.decode import Content
from lightning_omni.generation.omni import Omni
from lightning_omni.pretrained import fingerprint, resolve_pretrained
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)
RESULTS = "infilling.json"
METRICS = {"caption": "exact", "t2i": "attributes", "tts": "wer"}
INTERVAL_S = 0.4
"""Length of the masked interval of speech, in seconds."""
Variants = dict[str, list[Response]]
"""Responses to the same examples by variant: infilled, and what that is compared with."""


def evaluate_infilling(
    *,
    model: Path,
    data: str,
    out: Path,
    split: str,
    limit: int,
    speech_limit: int,
    seed: int,
    batch_size: int = 16,
    sampling: GenerationConfig | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Mask a piece of each reference answer, infill it and write `infilling.json`.

    The piece is a word of a caption, the left half of a picture or 0.4 s of speech. For comparison,
    ground truth, codec reconstruction and infilling without the prompt are scored as well.

    Args:
        model: Folder of an exported model.
        data: Folder or URL written by prep-data; media of a folder are encoded first where that was
            not done, those at a URL have to be.
        out: Folder for the results.
        split: Split whose reference answers are used.
        limit: Number of captions and of pictures, drawn by the seed.
        speech_limit: Number of recordings.
        seed: Seed of the draw of examples and masks, of generation and of bootstrap intervals.
        batch_size: Number of examples answered in one batch.
        sampling: Generation options; None for the defaults.
        device: Device: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If a folder, a split or the device does not exist.
    """
    check_tasks(list(METRICS), [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(seed, runs=max(limit, speech_limit))
    used = resolve_device(device)
    sampling = sampling or GenerationConfig()
    make_folder(out)
    model = resolve_pretrained(str(model))
    omni, suite = load_model_and_suite(model, parse_location(data), list(METRICS), device=used)
    plan = Plan(list(METRICS), [split], limit, speech_limit, seed, batch_size)
    assert suite.reconstructor is not None  # noqa: S101 - `load_model_and_suite` makes one
    infiller = Infiller(omni, suite.reconstructor, sampling, seed, batch_size)
    variants_of = {
        "caption": infiller.infill_caption_words,
        "t2i": infiller.infill_picture_halves,
        "tts": infiller.infill_speech_intervals,
    }
    rows: list[dict[str, Any]] = []
    for task, metric in METRICS.items():
        examples = suite.draw_task_examples(task, plan)
        for variant, responses in variants_of[task](examples).items():
            estimate = summarize_metric(
                suite.score_responses(task, examples, responses), metric, seed=seed
            )
            assert estimate is not None  # noqa: S101 - there are examples
            rows.append({"task": task, "variant": variant, "metric": metric, **asdict(estimate)})
            log.info(
                "%s %s: %s %.3f (%.3f to %.3f, n = %d)",
                *(task, variant, metric, estimate.value, estimate.low, estimate.high, estimate.n),
            )
    results = {
        "model": str(model),
        "fingerprint": fingerprint(model),
        "split": split,
        "seed": seed,
        "sampling": config_to_dict(sampling),
        "scene_classifier": suite.classifier.accuracy_report() if suite.classifier else None,
        **provenance(used),
        **omni.describe_computation(),
        "rows": rows,
    }
    write_text(out / RESULTS, json.dumps(results, indent=1) + "\n")
    return results


@dataclass(frozen=True, slots=True)
class Infiller:
    """Masks a piece of reference answers and infills it.

    Attributes:
        omni: Model that infills.
        reconstructor: Decoder of the references' codes.
        config: Generation options.
        seed: Seed of masks and of generation.
        batch_size: Number of examples answered in one batch.
    """

    omni: Omni
    reconstructor: CodecReconstructor
    config: GenerationConfig
    seed: int
    batch_size: int

    def infill_caption_words(self, examples: Sequence[Example]) -> Variants:
        """Infill one word of each caption, with the picture and with its codes masked."""
        infills: list[Part] = []
        for example in examples:
            words = (example.reference.text or "").split()
            words[self._make_rng(example).randrange(len(words))] = "___"
            infills.append(Part("text", text=" ".join(words)))
        inputs = [as_model_input(example.sample) for example in examples]
        return {
            "word": self._generate_infills(inputs, infills),
            "word_without_picture": self._generate_infills(
                [_change_prompt_parts(s, _mask_all_codes) for s in inputs], infills
            ),
        }

    def infill_picture_halves(self, examples: Sequence[Example]) -> Variants:
        """Infill the left half of each picture, with the caption and with an empty one."""
        columns = self.omni.template.image_columns
        left = frozenset(i for i in range(columns**2) if i % columns < columns // 2)
        infills = [
            Part("image", codes=_reference_codes(example, "image"), masked=left)
            for example in examples
        ]
        own = [example.reference.image for example in examples]
        inputs = [as_model_input(example.sample) for example in examples]
        return {
            "ground_truth": [example.reference for example in examples],
            "codec_reconstruction": self._reconstruct_references(examples),
            "half": self._generate_infills(inputs, infills, own),
            "half_without_caption": self._generate_infills(
                [_change_prompt_parts(s, _remove_text) for s in inputs], infills, own
            ),
        }

    def infill_speech_intervals(self, examples: Sequence[Example]) -> Variants:
        """Infill `INTERVAL_S` of each recording; silence instead shows what is lost without it."""
        tokenizer = self.omni.speech_tokenizer
        length, codebooks = round(INTERVAL_S * tokenizer.frame_rate), tokenizer.num_codebooks
        hop, rate = tokenizer.hop_length, tokenizer.sample_rate
        infills: list[Part] = []
        silenced = []
        for example in examples:
            codes, wave = _reference_codes(example, "speech"), example.reference.speech
            assert wave is not None  # noqa: S101 - the task speaks
            num_frames = len(codes) // codebooks
            start = self._make_rng(example).randrange(max(1, num_frames - length))
            frames = range(start, min(start + length, num_frames))
            masked = range(frames.start * codebooks, frames.stop * codebooks)
            infills.append(Part("speech", codes=codes, masked=frozenset(masked)))
            quiet = blend_speech(0 * wave, wave, frames, hop_length=hop, rate=rate)
            silenced.append(replace(example.reference, speech=quiet))
        return {
            "ground_truth": [example.reference for example in examples],
            "codec_reconstruction": self._reconstruct_references(examples),
            "interval_silenced": silenced,
            "interval": self._generate_infills(
                [as_model_input(e.sample) for e in examples],
                infills,
                [example.reference.speech for example in examples],
            ),
        }

    @torch.inference_mode()
    def _generate_infills(
        self,
        inputs: Sequence[Sample],
        infills: Sequence[Part],
        own: Sequence[Content | None] | None = None,
    ) -> list[Response]:
        """Return one response per input.

        Args:
            inputs: Requests without an answer.
            infills: First part of each answer, with blanks or masked codes.
            own: Picture or sound of each infill, kept where nothing is masked.
        """
        samples = [_set_first_answer_part(*pair) for pair in zip(inputs, infills, strict=True)]
        responses: list[Response] = []
        for start in range(0, len(samples), self.batch_size):
            answers = self.omni.answer(
                samples[start : start + self.batch_size],
                seed=self.seed + start,
                config=self.config,
            )
            responses += map(to_response, answers)
        if own is None:
            return responses
        return [
            self._blend_with_original(*each) for each in zip(responses, infills, own, strict=True)
        ]

    def _blend_with_original(
        self, response: Response, infill: Part, own: Content | None
    ) -> Response:
        generated = getattr(response, infill.modality)
        blended: Any = self.omni.decoder.blend_with_original(generated, own, infill.masked)
        return replace(response, **{infill.modality: blended})

    def _reconstruct_references(self, examples: Sequence[Example]) -> list[Response]:
        return [self.reconstructor.decode(example.sample, "assistant") for example in examples]

    def _make_rng(self, example: Example) -> Random:
        return Random(f"{self.seed}/{example.sample.key}")


def _reference_codes(example: Example, modality: str) -> tuple[int, ...]:
    part = first_part(example.sample, "assistant", modality)
    return part.codes or () if part else ()


def _set_first_answer_part(sample: Sample, first: Part) -> Sample:
    """Return the sample with the first part of its answer given."""
    *before, last = sample.turns
    return replace(sample, turns=(*before, Turn(last.role, (first, *last.parts[1:]))))


def _change_prompt_parts(sample: Sample, change: Callable[[Part], Part]) -> Sample:
    """Return the sample with every part of the user's turns changed."""
    turns = tuple(
        Turn(t.role, tuple(map(change, t.parts))) if t.role == "user" else t for t in sample.turns
    )
    return replace(sample, turns=turns)


def _mask_all_codes(part: Part) -> Part:
    return replace(part, masked=frozenset(range(len(part.codes or ()))))


def _remove_text(part: Part) -> Part:
    return replace(part, text="")
