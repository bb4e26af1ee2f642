"""Fill one part of a batch of answers: holes of the right length, denoising, growth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_omni.data.template import Hole, Template
from lightning_omni.errors import OmniError
from lightning_omni.inference.defaults import defaults_for
from lightning_omni.inference.denoise import conditional, guided
from lightning_omni.inference.layout import Grammar, make_canvas, pack_prompts, render_prompts
from lightning_omni.inference.lengths import LengthRule, rule_name, source_length
from lightning_omni.inference.sampling import Sampling, StepHook
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import fill
from lightning_omni.samplers.blocks import in_blocks
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
        sampling: Sampling,
        records: list[dict[str, Any]],
        *,
        seed: int,
        on_step: StepHook | None,
    ) -> list[Sample]:
        """Fill one answer part of every sample, growing holes whose answer did not end."""
        done = list(samples)
        todo = list(range(len(samples)))
        growth = 1.0
        modality = samples[0].turns[-1].parts[part].modality
        for attempt in range(MAX_GROWTHS + 1):
            chosen = [samples[i] for i in todo]
            filled = self._fill_holes(chosen, part, growth, sampling, seed, on_step)
            unfinished = []
            for i, (ids, steps, forwards) in zip(todo, filled, strict=True):
                content, closed = self._content(modality, ids)
                done[i] = self._with_answer(samples[i], part, content)
                name = rule_name(samples[i], part).partition("/")[2]
                records[i]["forwards"] = records[i].get("forwards", 0) + forwards
                records[i].setdefault("holes", {})[name] = {
                    "modality": modality,
                    "positions": len(ids),
                    "steps": steps,
                    "forwards": forwards,
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
        sampling: Sampling,
        seed: int,
        on_step: StepHook | None,
    ) -> list[tuple[list[int], int, int]]:
        """Run the reverse process for one part.

        Returns:
            The hole's ids, the steps it was given and those it took, per sample.
        """
        modality = samples[0].turns[-1].parts[part].modality
        defaults = defaults_for(modality, sampling.quality)
        lengths = [self._hole_length(sample, part, growth) for sample in samples]
        prompts = self._prompts(samples, lengths, part, drop=False)
        packed = pack_prompts(prompts, device=self.device)
        steps = [sampling.num_steps or defaults.num_steps(length) for length in lengths]
        steps = [min(s, length) for s, length in zip(steps, lengths, strict=True)]
        canvas = make_canvas(prompts, packed, self.grammar, num_steps=steps, vocab=self.vocab)
        if sampling.block_size is not None:
            canvas = in_blocks(canvas, sampling.block_size)
        how: dict[str, Any] = {
            "mask_token_id": self.vocab.mask_token_id,
            "refresh_every": sampling.refresh_every or defaults.refresh_every,
            "dtype": getattr(torch, sampling.precision),
        }
        scale = sampling.guidance_scale
        if scale := defaults.guidance_scale if scale is None else scale:
            bare = pack_prompts(
                self._prompts(samples, lengths, part, drop=True), device=self.device
            )
            denoise = guided(self.backbone, packed, bare, scale=scale, **how)
        else:
            denoise = conditional(self.backbone, packed, **how)
        forwards = torch.zeros(len(samples), dtype=torch.long, device=self.device)

        def count(step: int, ids: Tensor) -> None:
            is_open = canvas.sample[ids == canvas.mask_token_id]
            left = torch.bincount(is_open, minlength=len(samples))
            forwards[(forwards == 0) & (left == 0)] = step
            if on_step is not None:
                on_step(step, ids)

        rng = torch.Generator(self.device).manual_seed(seed)
        sampler = sampling.sampler or defaults.sampler(sampling.temperature or 0.0)
        ids = fill(denoise, canvas, sampler, rng=rng, on_step=count).tolist()
        first = [(canvas.sample == n).nonzero()[0].item() for n in range(len(samples))]
        return [
            (ids[int(f) + holes[0].start : int(f) + holes[0].stop], step, taken)
            for f, (_, holes), step, taken in zip(
                first, prompts, steps, forwards.tolist(), strict=True
            )
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
