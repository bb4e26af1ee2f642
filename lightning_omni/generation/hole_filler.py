"""Run the reverse process on one hole of every sample of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lightning_omni.data.template import MaskedSpan as Hole
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.generation.blank import Blank
from lightning_omni.generation.canvas_builder import (
    Grammar,
    PackedPrompts,
    end_ids,
    make_canvas,
    pack_prompts,
    render_prompts,
)
from lightning_omni.generation.config import Precision, Sampling
from lightning_omni.generation.defaults import GenerationDefaults, defaults_for
from lightning_omni.generation.denoiser import Guide, conditional, guided
from lightning_omni.generation.history import Trace
from lightning_omni.generation.length_prediction import predict_lengths
from lightning_omni.nn.length_head import LengthHead, Query, query_states
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.canvas import Canvas, Denoiser, in_blocks
from lightning_omni.samplers.growth import Growing
from lightning_omni.samplers.loop import StepEvent, StepHook, fill
from lightning_omni.types import Sample, Sequence


class HoleFiller:
    """Lays prompts out, denoises their holes, and says what that took.

    Args:
        backbone: Trained.
        template: The layout it was trained on, without tail pads.
        length_head: Trained with it; None if there is none.
        codebooks: Speech codes per frame.
        device: Where the backbone is.
    """

    def __init__(
        self,
        backbone: Transformer,
        template: Template,
        length_head: LengthHead | None,
        *,
        codebooks: int,
        device: torch.device,
    ) -> None:
        self.backbone, self.template, self.device = backbone, template, device
        self.length_head = length_head
        self.vocab = template.vocab
        self.grammar = Grammar(self.vocab, template.text, codebooks, device=device)

    def fill(
        self,
        samples: list[Sample],
        part: int,
        blanks: list[Blank],
        sampling: Sampling,
        *,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[dict[str, Any]]:
        """Fill one hole of each sample, all of one modality.

        Args:
            samples: Of any tasks.
            part: Number of the part in the last turn that is the hole.
            blanks: The hole of each sample, with something open.
            sampling: How to sample.
            seeds: Of each sample.
            on_step: Told of every step.

        Returns:
            Of each hole the ids, the steps it was given, the forwards it took and, if it is wanted,
            the trace.
        """
        modality = samples[0].turns[-1].parts[part].modality
        defaults = defaults_for(modality, sampling.quality)
        prompts = render_prompts(self.template, samples, blanks, part=part)
        packed = pack_prompts(prompts, device=self.device)
        steps = [sampling.steps_of(blank.num_open, defaults) for blank in blanks]
        canvas = make_canvas(
            prompts,
            packed,
            self.grammar,
            blanks=blanks,
            num_steps=steps,
            shift=sampling.shift_of(modality),
            stop_at_end=sampling.stop_at_end,
            vocab=self.vocab,
        )
        if sampling.block_size is not None:
            canvas = in_blocks(canvas, sampling.block_size)
        denoise = self._denoiser(packed, samples, part, blanks, sampling, defaults)
        watch = _Watch(canvas, Trace(canvas) if sampling.trace else None, on_step)
        sampler = sampling.sampler or defaults.sampler(sampling.temperature or 0.0)
        seeds_S = torch.tensor(seeds, device=self.device)
        growing = None
        if sampling.grow is not None and modality == "text":

            def of_grown(grown: Canvas) -> Denoiser:
                longer = _as_long_as(blanks, grown)
                packed = self._pack(samples, part, longer)
                return self._denoiser(packed, samples, part, longer, sampling, defaults)

            growing = Growing(sampling.grow, end_ids(self.vocab), of_grown)
        ids = fill(
            denoise, canvas, sampler, seeds=seeds_S, on_step=watch.step, growing=growing
        ).tolist()
        more_steps = (watch.canvas.num_steps.sum(1) - canvas.num_steps.sum(1)).tolist()
        out: list[dict[str, Any]] = []
        for n, span in enumerate(_spans(watch.canvas)):
            own = {
                "steps": steps[n] + more_steps[n],
                "forwards": int(watch.forwards[n]),
                "ids": ids[span],
            }
            if watch.trace is not None:
                own["trace"] = watch.trace.of(span)
            out.append(own)
        return out

    def lengths_needed(
        self, samples: list[Sample], part: int, lengths: list[int]
    ) -> list[int | None]:
        """What the network says of holes of these lengths: see `predict_lengths`."""
        blanks = [Blank(length) for length in lengths]
        prompts = render_prompts(self.template, samples, blanks, part=part)
        packed = pack_prompts(prompts, device=self.device)
        return predict_lengths(self.backbone, prompts, packed, self.grammar, self.vocab)

    @torch.no_grad()
    def lengths_by_head(self, samples: list[Sample], part: int, quantile: float) -> list[int]:
        """Positions into which each answer fits with this probability, as the head says.

        Raises:
            OmniError: If the model has no head.
        """
        if self.length_head is None:
            raise OmniError(
                "this model has no length head, which `length: head` asks; train one with "
                "model.init_args.length_loss, or take fitted, longest or predicted lengths"
            )
        prompts = render_prompts(self.template, samples, [Blank(1)] * len(samples), part=part)
        packed = pack_prompts([_up_to_hole(*prompt) for prompt in prompts], device=self.device)
        query = Query(packed.ids, packed.position_ids, packed.layout.lengths, packed.continuous)
        logits = self.length_head(query_states(self.backbone, query))
        return self.length_head.positions(logits, quantile).tolist()

    @torch.inference_mode()
    def text_log_probs(
        self,
        sample: Sample,
        part: int,
        texts: list[list[int]],
        *,
        start: int,
        precision: Precision,
    ) -> list[float]:
        """How likely each text goes on as it does: the sum over the tokens masked, in nats.

        Args:
            sample: What the texts answer.
            part: Number of the text in the last turn.
            texts: Ids, terminators included; alike before `start`.
            start: Place from which on all tokens are masked.
            precision: Format of the network's matrix products.
        """
        blanks = [Blank(len(text), dict(enumerate(text[:start]))) for text in texts]
        packed = self._pack([sample] * len(texts), part, blanks)
        denoise = conditional(
            self.backbone,
            packed,
            mask_token_id=self.vocab.mask_token_id,
            dtype=getattr(torch, precision),
        )
        allowed = self.grammar.allowed[0]
        where = packed.hole_positions
        log_p = denoise(packed.ids, where)(where, allowed).log_softmax(-1)
        ids = torch.tensor([i for text in texts for i in text], device=self.device)
        of_token = log_p.gather(1, torch.searchsorted(allowed, ids)[:, None]).squeeze(1)
        return [own[start:].sum().item() for own in torch.split(of_token, list(map(len, texts)))]

    def _pack(
        self, samples: list[Sample], part: int, blanks: list[Blank], drop: tuple[str, ...] = ()
    ) -> PackedPrompts:
        """Prompts with their holes, without some modalities of the request, as one batch."""
        prompts = render_prompts(self.template, samples, blanks, part=part, drop=drop)
        return pack_prompts(prompts, device=self.device)

    def _denoiser(
        self,
        packed: PackedPrompts,
        samples: list[Sample],
        part: int,
        blanks: list[Blank],
        sampling: Sampling,
        defaults: GenerationDefaults,
    ) -> Denoiser:
        """The backbone over the prompts, led away from bare ones if guidance is wanted."""
        how: dict[str, Any] = {
            "mask_token_id": self.vocab.mask_token_id,
            "refresh_every": sampling.refresh_every or defaults.refresh_every,
            "dtype": getattr(torch, sampling.precision),
        }
        scales = sampling.guidance_scales() or {"": defaults.guidance_scale}
        guides = [
            self._guide(samples, blanks, part, name, scale, sampling.final_guidance_scale)
            for name, scale in scales.items()
            if scale or sampling.final_guidance_scale
        ]
        if guides:
            return guided(self.backbone, packed, guides, **how)
        return conditional(self.backbone, packed, **how)

    def _guide(
        self,
        samples: list[Sample],
        blanks: list[Blank],
        part: int,
        name: str,
        scale: float,
        final_scale: float | None,
    ) -> Guide:
        """Prompts without a modality of the request, or without all of it."""
        drop = (name,) if name else self.vocab.modalities
        return Guide(self._pack(samples, part, blanks, drop), scale, final_scale)


def _up_to_hole(sequence: Sequence, holes: list[Hole]) -> tuple[Sequence, list[Hole]]:
    """A prompt without what follows its hole."""
    stop = holes[0].stop
    ids, position_ids = sequence.ids[:stop], sequence.position_ids[:stop]
    return replace(sequence, ids=ids, position_ids=position_ids), holes


def _as_long_as(blanks: list[Blank], canvas: Canvas) -> list[Blank]:
    """The same holes, as long as they are on the canvas."""
    lengths = torch.bincount(canvas.sample[canvas.hole >= 0], minlength=len(blanks)).tolist()
    return [replace(blank, length=n) for blank, n in zip(blanks, lengths, strict=True)]


def _spans(canvas: Canvas) -> list[slice]:
    """Where each sample's hole lies."""
    where = (canvas.hole >= 0).nonzero().squeeze(1)
    lengths = torch.bincount(canvas.sample[where], minlength=len(canvas.num_steps)).tolist()
    starts = [int(own[0]) for own in torch.split(where, lengths)]
    return [slice(start, start + n) for start, n in zip(starts, lengths, strict=True)]


class _Watch:
    """Looks at every step; `forwards` counts the passes that each sample took part in."""

    def __init__(
        self,
        canvas: Canvas,
        trace: Trace | None,
        on_step: StepHook | None,
    ) -> None:
        self.canvas, self.trace = canvas, trace
        noted = (None if trace is None else trace.add, on_step)
        self.hooks = [hook for hook in noted if hook is not None]
        self.forwards = torch.zeros(
            len(canvas.num_steps), dtype=torch.long, device=canvas.ids.device
        )

    def step(self, event: StepEvent) -> None:
        """Take note of a step and pass it on."""
        if event.grown is not None:
            self.canvas = event.grown.canvas
        self.forwards += event.is_asked
        for hook in self.hooks:
            hook(event)
