"""Generate one answer part of every sample of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch

from lightning_omni.data.template import Template
from lightning_omni.generation.allowed_tokens import AllowedTokens
from lightning_omni.generation.canvas_builder import build_canvas
from lightning_omni.generation.config import GenerationConfig, Precision, autocast_dtype
from lightning_omni.generation.decode import GeneratedPart, cut_at_terminator, decode_response
from lightning_omni.generation.denoiser import (
    CacheOptions,
    cache_first_pass,
    conditional_denoiser,
    guided_denoiser,
)
from lightning_omni.generation.history import History
from lightning_omni.generation.lengths import (
    LENGTHENING,
    LengthRule,
    configured_response_length,
    length_rule_name,
    lengthen_responses,
    response_length,
    source_length,
)
from lightning_omni.generation.modality_defaults import ModalityDefaults, modality_defaults
from lightning_omni.generation.prompts import PackedPrompts, pack_prompts
from lightning_omni.generation.response_span import (
    ResponseSpan,
    response_span_of_media,
    response_spans_of_text,
)
from lightning_omni.generation.text_blanks import TextWithBlanks
from lightning_omni.nn.computation import AttentionWatch
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers import loop
from lightning_omni.samplers.canvas import Canvas, Denoiser, split_into_blocks
from lightning_omni.samplers.loop import StepEvent, StepHook
from lightning_omni.types import Sample

ATTEMPTS = 3
"""Responses whose answer does not end are generated again, each time `LENGTHENING` times longer."""
BATCH = 64
"""Responses that are generated at once."""


class PartGenerator:
    """Runs the reverse process on one answer part after another.

    Args:
        backbone: the trained network.
        template: the template it was trained on, without tail pads.
        lengths: rules of response lengths.
        device: device of the network.

    Attributes:
        dtypes: formats of the matrix products of all passes so far.
        kernels: kernels of attention of all passes so far, where they depend on lengths.
    """

    def __init__(
        self,
        backbone: Transformer,
        template: Template,
        lengths: Mapping[str, LengthRule],
        *,
        device: torch.device,
    ) -> None:
        self.backbone, self.template, self.lengths = backbone, template, lengths
        self.vocab, self.device = template.vocab, device
        self.ends = self.vocab.all_end_ids()
        self.dtypes: set[torch.dtype] = set()
        self.kernels: set[str] = set()
        self.allowed = AllowedTokens(self.vocab, template.text, template.codebooks, device=device)

    @torch.inference_mode()
    def generate(
        self,
        samples: list[Sample],
        part: int,
        config: GenerationConfig,
        *,
        seeds: list[int],
        on_step: StepHook | None = None,
    ) -> list[GeneratedPart]:
        """Generate one answer part of every sample.

        A response whose answer does not end is generated again with more positions.

        Args:
            samples: samples of any tasks; the part has one modality in all of them. A part without
                content is generated whole; in one with content, only what is masked or blank.
            part: index of the part in the last turn; the parts before it are given.
            config: settings, presets resolved.
            seeds: one seed per sample.
            on_step: called after every step.

        Raises:
            OmniError: If a length is not known, or a text with blanks is malformed.
        """
        with closing(AttentionWatch(self.backbone)) as watch:
            done = self._generate_with_retries(samples, part, config, seeds, on_step)
        self.kernels |= watch.kernels
        return [replace(one, kernels=frozenset(watch.kernels if one.dtype else ())) for one in done]

    def _generate_with_retries(
        self,
        samples: list[Sample],
        part: int,
        config: GenerationConfig,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[GeneratedPart]:
        """Generate every response until its answer ends or there have been enough attempts."""
        done: dict[int, GeneratedPart] = {}
        todo = list(range(len(samples)))
        for attempt in range(ATTEMPTS):
            spans = [
                (i, span)
                for i in todo
                for span in self._response_spans(samples[i], part, config, LENGTHENING**attempt)
            ]
            tried = self._generate_candidates(spans, samples, part, config, seeds, on_step)
            for i, candidates in tried.items():
                best = self._likeliest_candidate(samples[i], part, candidates, config.precision)
                earlier = done[i].forwards if i in done else 0
                done[i] = replace(best, forwards=best.forwards + earlier, attempts=attempt + 1)
            todo = [
                i
                for i in todo
                if not (done[i].ended or configured_response_length(samples[i], part, config))
            ]
            if not todo:
                break
        return [done[i] for i in range(len(samples))]

    def _response_spans(
        self, sample: Sample, part: int, config: GenerationConfig, factor: float
    ) -> list[ResponseSpan]:
        """Return the response of a part; several where blanks may have several lengths."""
        own = sample.turns[-1].parts[part]
        if own.is_empty:
            stated = configured_response_length(sample, part, config)
            length = response_length(
                self.lengths, self.template, sample, part, factor=factor, positions=stated
            )
            return [ResponseSpan(length)]
        ending = self.template.answer_ending(sample.turns[-1].parts, part)
        if own.modality != "text":
            ids = self.vocab.to_ids(own.modality, list(own.codes or ()))
            return [response_span_of_media([*ids, *ending[1]], own.masked)]
        rule = self.lengths.get(length_rule_name(sample, part))
        return response_spans_of_text(
            TextWithBlanks.parse(own.text or ""),
            self.template.text,
            ending=ending,
            usual_length=rule.num_positions(source_length(sample, part)) if rule else 0,
            factor=factor,
        )

    def _generate_candidates(
        self,
        spans: list[tuple[int, ResponseSpan]],
        samples: list[Sample],
        part: int,
        config: GenerationConfig,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> dict[int, list[GeneratedPart]]:
        """Generate every response; a sample may have several."""
        found: dict[int, list[GeneratedPart]] = {}
        for i, span in spans:
            if not span.num_masked:
                ids = tuple(span.fixed[position] for position in range(span.length))
                found[i] = [
                    decode_response(self.template, samples[i].turns[-1].parts[part], span, ids)
                ]
        masked = [(i, span) for i, span in spans if span.num_masked]
        for start in range(0, len(masked), BATCH):
            chosen = masked[start : start + BATCH]
            generated = self._run_reverse_process(
                [samples[i] for i, _ in chosen],
                part,
                [span for _, span in chosen],
                config,
                seeds=[seeds[i] for i, _ in chosen],
                on_step=on_step,
            )
            for (i, _), one in zip(chosen, generated, strict=True):
                found.setdefault(i, []).append(one)
        return found

    def _run_reverse_process(
        self,
        samples: list[Sample],
        part: int,
        spans: list[ResponseSpan],
        config: GenerationConfig,
        *,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[GeneratedPart]:
        """Run the reverse process on one response of each sample."""
        looks, spans, denoise, canvas = self._prepare_canvas(samples, part, spans, config)
        defaults = _preset_defaults(samples, part, config)
        sampler = config.sampler or defaults.make_sampler(config.temperature or 0.0)
        dtype = autocast_dtype(config.precision, self.device)
        self.dtypes.add(dtype)
        history = History(canvas) if config.history else None
        forwards = torch.tensor(looks)

        def record_step(event: StepEvent) -> None:
            forwards.add_(event.is_active)
            for hook in (None if history is None else history.add_step, on_step):
                if hook is not None:
                    hook(event)

        ids = loop.sample(
            denoise,
            canvas,
            sampler,
            seeds=torch.tensor(seeds),
            on_step=record_step,
        ).tolist()
        return [
            replace(
                decode_response(
                    self.template, samples[n].turns[-1].parts[part], spans[n], tuple(ids[own])
                ),
                steps=config.steps_for(spans[n].num_masked, defaults),
                forwards=int(forwards[n]),
                history=None if history is None else history.changes_within(own),
                dtype=dtype,
            )
            for n, own in enumerate(_response_slices(canvas, spans))
        ]

    def _prepare_canvas(
        self,
        samples: list[Sample],
        part: int,
        spans: list[ResponseSpan],
        config: GenerationConfig,
    ) -> tuple[list[int], list[ResponseSpan], Denoiser, Canvas]:
        """Render the prompts, and lengthen responses of text if `adjust_length` says so.

        Returns:
            Forward passes spent on each sample, responses, denoiser and canvas.
        """
        modality = samples[0].turns[-1].parts[part].modality
        defaults = _preset_defaults(samples, part, config)
        looks = [0] * len(spans)
        while True:
            packed = self._pack_prompts(samples, part, spans)
            denoise = self._build_denoiser(packed, samples, part, spans, config)
            if config.adjust_length and modality == "text":
                denoise = cache_first_pass(denoise)
                longer = lengthen_responses(
                    spans, denoise, packed, self.allowed.allowed[0], self.ends
                )
                if longer != spans:
                    pairs = zip(looks, spans, longer, strict=True)
                    looks = [n + (old != new) for n, old, new in pairs]
                    spans = longer
                    continue
            canvas = build_canvas(
                packed,
                spans,
                modality,
                self.allowed,
                num_steps=[config.steps_for(span.num_masked, defaults) for span in spans],
                timestep_shift=config.timestep_shift,
                stop_at_end=config.stop_at_end,
                vocab=self.vocab,
            )
            if config.block_size is not None:
                canvas = split_into_blocks(canvas, config.block_size)
            return looks, spans, denoise, canvas

    def _likeliest_candidate(
        self, sample: Sample, part: int, candidates: list[GeneratedPart], precision: Precision
    ) -> GeneratedPart:
        """Return the likeliest text of several, with the passes of the one that took most.

        The log-probability is of all text from the first blank on, fixed words included: blanks
        that are too short or too long shift the words after them to unlikely positions.
        """
        if len(candidates) == 1:
            return candidates[0]
        end = self.template.answer_ending(sample.turns[-1].parts, part)[1]
        texts = [
            [*cut_at_terminator(one.ids, "text", self.template)[0], *end] for one in candidates
        ]
        first = candidates[0].span.blanks[0][0]
        log_probs: list[float] = []
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            log_probs += self._text_log_probs(sample, part, batch, start=first, precision=precision)
        best = max(range(len(candidates)), key=lambda n: log_probs[n])
        tried = tuple(
            {"blanks": list(one.span.blank_lengths), "log_prob": round(log_prob, 3)}
            for one, log_prob in zip(candidates, log_probs, strict=True)
        )
        forwards = max(one.forwards for one in candidates) + 1
        return replace(candidates[best], forwards=forwards, candidates=tried)

    def _text_log_probs(
        self, sample: Sample, part: int, texts: list[list[int]], *, start: int, precision: Precision
    ) -> list[float]:
        """Return each text's log-probability in nats, summed over the tokens from `start` on.

        All of these tokens are masked at once. Texts include their terminator and are equal before
        `start`.
        """
        spans = [ResponseSpan(len(text), dict(enumerate(text[:start]))) for text in texts]
        packed = self._pack_prompts([sample] * len(texts), part, spans)
        denoise = conditional_denoiser(
            self.backbone,
            packed,
            mask_token_id=self.vocab.mask_token_id,
            dtype=autocast_dtype(precision, self.device),
        )
        allowed, positions = self.allowed.allowed[0], packed.response_positions
        log_p = denoise(packed.ids, positions)(positions, allowed).log_softmax(-1)
        ids = torch.tensor([i for text in texts for i in text], device=self.device)
        of_token = log_p.gather(1, torch.searchsorted(allowed, ids)[:, None]).squeeze(1)
        return [own[start:].sum().item() for own in torch.split(of_token, list(map(len, texts)))]

    def _build_denoiser(
        self,
        packed: PackedPrompts,
        samples: list[Sample],
        part: int,
        spans: list[ResponseSpan],
        config: GenerationConfig,
    ) -> Denoiser:
        """Return the backbone over the prompts, guided if the scale says so."""
        defaults = _preset_defaults(samples, part, config)
        scale = defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale
        options: CacheOptions = {
            "mask_token_id": self.vocab.mask_token_id,
            "cache_interval": config.cache_interval or defaults.cache_interval,
            "dtype": autocast_dtype(config.precision, self.device),
        }
        if not scale:
            return conditional_denoiser(self.backbone, packed, **options)
        unconditional = self._pack_prompts(samples, part, spans, drop=self.vocab.modalities)
        return guided_denoiser(self.backbone, packed, unconditional, scale, **options)

    def _pack_prompts(
        self, samples: list[Sample], part: int, spans: list[ResponseSpan], drop: Sequence[str] = ()
    ) -> PackedPrompts:
        return pack_prompts(self.template, samples, spans, part=part, drop=drop)


def _preset_defaults(
    samples: list[Sample], part: int, config: GenerationConfig
) -> ModalityDefaults:
    """Return the preset's settings for the modality of a part."""
    return modality_defaults(config.preset, samples[0].turns[-1].parts[part].modality)


def _response_slices(canvas: Canvas, spans: list[ResponseSpan]) -> list[slice]:
    """Return the slice of the canvas that holds each sample's response."""
    positions = (canvas.block >= 0).nonzero().squeeze(1)
    starts = [int(own[0]) for own in torch.split(positions, [span.length for span in spans])]
    return [slice(a, a + span.length) for a, span in zip(starts, spans, strict=True)]
