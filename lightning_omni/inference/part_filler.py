"""Fill one part of a batch of answers: holes of the right length, denoising, growth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.inference.defaults import defaults_for
from lightning_omni.inference.denoise import Guide, conditional, guided
from lightning_omni.inference.layout import (
    Grammar,
    PackedPrompts,
    end_ids,
    make_canvas,
    pack_prompts,
    render_prompts,
)
from lightning_omni.inference.length_prediction import predict_lengths
from lightning_omni.inference.lengths import LengthRule, rule_name, source_length
from lightning_omni.inference.sampling import LengthChoice, Sampling
from lightning_omni.inference.trace import Trace
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.blocks import in_blocks
from lightning_omni.samplers.canvas import Denoiser
from lightning_omni.samplers.fill import StepEvent, StepHook, fill
from lightning_omni.types import Part, Sample, Turn

log = logging.getLogger(__name__)

MAX_GROWTHS = 2
GROWTH = 1.5
FAR = 1.1
"""Beyond the longest input of training by this factor, answers are poor."""


class PartFiller:
    """Runs the reverse process for one part of an answer after another.

    Args:
        backbone: Trained.
        template: The layout it was trained on, without tail pads.
        lengths: Rules of hole lengths.
        codebooks: Speech codes per frame.
        device: Where the backbone is.
    """

    def __init__(
        self,
        backbone: Transformer,
        template: Template,
        lengths: dict[str, LengthRule],
        *,
        codebooks: int,
        device: torch.device,
    ) -> None:
        self.backbone, self.template, self.lengths = backbone, template, lengths
        self.vocab, self.text = template.vocab, template.text
        self.codebooks, self.device = codebooks, device
        self.grammar = Grammar(self.vocab, codebooks, device=device)

    def fill_part(
        self,
        samples: list[Sample],
        part: int,
        sampling: Sampling,
        records: list[dict[str, Any]],
        *,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[Sample]:
        """Fill one answer part of every sample, growing holes whose answer did not end.

        Args:
            samples: Of any tasks; the part has one modality in all of them.
            part: Number of the part in the last turn.
            sampling: How to sample.
            records: Of each sample; what is done is written down there.
            seeds: Of each sample.
            on_step: Told of every step.
        """
        done = list(samples)
        todo = list(range(len(samples)))
        growth = 1.0
        modality = samples[0].turns[-1].parts[part].modality
        for attempt in range(MAX_GROWTHS + 1):
            chosen = [samples[i] for i in todo]
            filled = self._fill_holes(
                chosen, part, growth, sampling, [seeds[i] for i in todo], on_step
            )
            unfinished = []
            for i, hole in zip(todo, filled, strict=True):
                content, closed = self._content(modality, hole["ids"])
                done[i] = self._with_answer(samples[i], part, content)
                name = rule_name(samples[i], part).partition("/")[2]
                records[i]["forwards"] = records[i].get("forwards", 0) + hole["forwards"]
                records[i].setdefault("holes", {})[name] = {
                    "modality": modality,
                    "positions": len(hole["ids"]),
                    "grown": attempt,
                    "closed": closed,
                    **hole,
                }
                if not closed:
                    unfinished.append(i)
            todo, growth = unfinished, growth * GROWTH
            if not todo:
                break
        return done

    def _fill_holes(
        self,
        samples: list[Sample],
        part: int,
        growth: float,
        sampling: Sampling,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> list[dict[str, Any]]:
        """Run the reverse process for one part.

        Returns:
            Of each sample's hole the ids, the steps it was given, the forwards it took and, if it
            is wanted, the trace.
        """
        modality = samples[0].turns[-1].parts[part].modality
        defaults = defaults_for(modality, sampling.quality)
        lengths = [self._hole_length(s, part, growth, sampling.length) for s in samples]
        if sampling.length == "predicted" and modality != "image":
            lengths = self._predicted(samples, part, lengths)
        prompts = render_prompts(self.template, samples, lengths, part=part)
        packed = pack_prompts(prompts, device=self.device)
        steps = [sampling.steps_of(length, defaults) for length in lengths]
        shift = defaults.shift if sampling.shift is None else sampling.shift
        canvas = make_canvas(
            prompts,
            packed,
            self.grammar,
            num_steps=steps,
            shift=shift,
            stop_at_end=sampling.stop_at_end,
            vocab=self.vocab,
        )
        if sampling.block_size is not None:
            canvas = in_blocks(canvas, sampling.block_size)
        denoise = self._denoiser(samples, lengths, part, packed, sampling)
        forwards = torch.zeros(len(samples), dtype=torch.long, device=self.device)
        trace = Trace(canvas) if sampling.trace else None

        def watch(event: StepEvent) -> None:
            is_open = canvas.sample[event.ids == canvas.mask_token_id]
            left = torch.bincount(is_open, minlength=len(samples))
            forwards[(forwards == 0) & (left == 0)] = event.number
            if trace is not None:
                trace.add(event)
            if on_step is not None:
                on_step(event)

        sampler = sampling.sampler or defaults.sampler(sampling.temperature or 0.0)
        seeds_S = torch.tensor(seeds, device=self.device)
        ids = fill(denoise, canvas, sampler, seeds=seeds_S, on_step=watch).tolist()
        first = [(canvas.sample == n).nonzero()[0].item() for n in range(len(samples))]
        out: list[dict[str, Any]] = []
        for n, (start, (_, holes)) in enumerate(zip(first, prompts, strict=True)):
            span = slice(int(start) + holes[0].start, int(start) + holes[0].stop)
            out.append({"steps": steps[n], "forwards": int(forwards[n]), "ids": ids[span]})
            if trace is not None:
                out[-1]["trace"] = trace.of(span)
        return out

    def _denoiser(
        self,
        samples: list[Sample],
        lengths: list[int],
        part: int,
        packed: PackedPrompts,
        sampling: Sampling,
    ) -> Denoiser:
        """The network over these prompts, guided if that is wanted."""
        modality = samples[0].turns[-1].parts[part].modality
        defaults = defaults_for(modality, sampling.quality)
        how: dict[str, Any] = {
            "mask_token_id": self.vocab.mask_token_id,
            "refresh_every": sampling.refresh_every or defaults.refresh_every,
            "dtype": getattr(torch, sampling.precision),
        }
        scales = sampling.guidance_scales() or {"": defaults.guidance_scale}
        final = sampling.final_guidance_scale
        guides = [
            self._guide(samples, lengths, part, name, scale, final)
            for name, scale in scales.items()
            if scale or final
        ]
        if guides:
            return guided(self.backbone, packed, guides, **how)
        return conditional(self.backbone, packed, **how)

    def _guide(
        self,
        samples: list[Sample],
        lengths: list[int],
        part: int,
        name: str,
        scale: float,
        final_scale: float | None,
    ) -> Guide:
        """Prompts without a modality of the request, or without all of it."""
        drop = (name,) if name else self.vocab.modalities
        bare = render_prompts(self.template, samples, lengths, part=part, drop=drop)
        return Guide(pack_prompts(bare, device=self.device), scale, final_scale)

    def _predicted(self, samples: list[Sample], part: int, lengths: list[int]) -> list[int]:
        """Lengths as the network sees them, looked for in holes that grow where it sees no end."""
        lengths, todo = list(lengths), list(range(len(samples)))
        for _ in range(MAX_GROWTHS + 1):
            chosen = [lengths[i] for i in todo]
            prompts = render_prompts(self.template, [samples[i] for i in todo], chosen, part=part)
            packed = pack_prompts(prompts, device=self.device)
            seen = predict_lengths(self.backbone, prompts, packed, self.grammar, self.vocab)
            for i, length in zip(todo, seen, strict=True):
                lengths[i] = self._whole_frames(samples[i], part, length or GROWTH * lengths[i])
            todo = [i for i, length in zip(todo, seen, strict=True) if length is None]
            if not todo:
                break
        return lengths

    def _hole_length(self, sample: Sample, part: int, growth: float, choice: LengthChoice) -> int:
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
        source = source_length(sample, part)
        if rule.largest and source > FAR * rule.largest:
            log.warning(
                "%s: the input is %.1f times as long as any in training; expect a poor answer",
                *(sample.task, source / rule.largest),
            )
        followed = max(source, rule.largest) if choice == "longest" else source
        return self._whole_frames(sample, part, rule.positions(followed) * growth)

    def _whole_frames(self, sample: Sample, part: int, length: float) -> int:
        """Positions in whole frames, at least one."""
        is_speech = sample.turns[-1].parts[part].modality == "speech"
        codebooks = self.codebooks if is_speech else 1
        return max(-(-int(length) // codebooks) * codebooks, codebooks)

    def _content(self, modality: str, ids: list[int]) -> tuple[list[int], bool]:
        """Cut a filled hole at its terminator; the flag says whether there was one."""
        if modality == "image":
            return ids, True
        ends = end_ids(self.vocab)
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        content = ids if stop is None else ids[:stop]
        if modality == "speech":
            codebooks = self.codebooks
            content = content[: len(content) // codebooks * codebooks]
        return content, stop is not None

    def _with_answer(self, sample: Sample, part: int, ids: list[int]) -> Sample:
        """Write a filled hole into the sample."""
        parts = list(sample.turns[-1].parts)
        modality = parts[part].modality
        if modality == "text":
            parts[part] = replace(parts[part], text=self.template.answer_text(ids))
        else:
            parts[part] = Part(modality, codes=tuple(self.vocab.to_codes(modality, ids)))
        return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
