"""Fill one part of a batch of answers: holes of the right length, denoising, growth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from lightning_omni.data.template import Hole, Template
from lightning_omni.errors import OmniError
from lightning_omni.inference.defaults import defaults_for
from lightning_omni.inference.denoise import conditional, guided
from lightning_omni.inference.layout import Grammar, make_canvas, pack_prompts, render_prompts
from lightning_omni.inference.lengths import LengthRule, rule_name, source_length
from lightning_omni.inference.settings import Settings, StepHook
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import fill
from lightning_omni.types import Part, Sample, Turn

log = logging.getLogger(__name__)

MAX_GROWTHS = 2
GROWTH = 1.5


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
                done[i] = self._with_answer(samples[i], part, content)
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
            todo, growth = unfinished, growth * GROWTH
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
        refresh = settings.refresh_every or defaults.refresh_every
        if scale:
            bare = pack_prompts(
                self._prompts(samples, lengths, part, drop=True), device=self.device
            )
            denoise = guided(self.backbone, packed, bare, scale=scale, refresh_every=refresh)
        else:
            denoise = conditional(self.backbone, packed, refresh_every=refresh)
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
        codebooks = self.codebooks if modality == "speech" else 1
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
            codebooks = self.codebooks
            content = content[: len(content) // codebooks * codebooks]
        return content, stop is not None

    def _with_answer(self, sample: Sample, part: int, ids: list[int]) -> Sample:
        """Write a filled hole into the sample."""
        parts = list(sample.turns[-1].parts)
        modality = parts[part].modality
        if modality == "text":
            parts[part] = replace(parts[part], text=self.text.decode(ids))
        else:
            parts[part] = Part(modality, codes=tuple(self.vocab.to_codes(modality, ids)))
        return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
