"""Fill one part of a batch of answers: holes of the right length, drafts, growth."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from lightning_omni.data.template import Template
from lightning_omni.generation.blank import Blank, media_blank, text_blanks
from lightning_omni.generation.canvas_builder import end_ids
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.hole_filler import HoleFiller
from lightning_omni.generation.hole_lengths import GROWTH, HoleLengths
from lightning_omni.generation.lengths import LengthRule, rule_name, source_length
from lightning_omni.generation.part_draft import PartDraft, TextDraft
from lightning_omni.nn.length_head import LengthHead
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.loop import StepHook
from lightning_omni.types import Part, Sample, Turn

log = logging.getLogger(__name__)

MAX_GROWTHS = 2
TOGETHER = 64
"""Holes that are filled at once."""


class PartFiller:
    """Runs the reverse process for one part of an answer after another.

    Args:
        backbone: Trained.
        template: The layout it was trained on, without tail pads.
        lengths: Rules of hole lengths.
        length_head: Trained with the backbone; None if there is none.
        codebooks: Speech codes per frame.
        device: Where the backbone is.
    """

    def __init__(
        self,
        backbone: Transformer,
        template: Template,
        lengths: dict[str, LengthRule],
        length_head: LengthHead | None,
        *,
        codebooks: int,
        device: torch.device,
    ) -> None:
        self.template, self.lengths, self.codebooks = template, lengths, codebooks
        self.vocab, self.text = template.vocab, template.text
        self.holes = HoleFiller(backbone, template, length_head, codebooks=codebooks, device=device)
        self.hole_lengths = HoleLengths(lengths, self.holes, codebooks=codebooks)

    def fill_part(
        self,
        samples: list[Sample],
        part: int,
        sampling: Sampling,
        records: list[dict[str, Any]],
        *,
        seeds: list[int],
        drafts: list[PartDraft | None],
        on_step: StepHook | None,
    ) -> list[Sample]:
        """Fill one answer part of every sample, growing holes whose answer did not end.

        Args:
            samples: Of any tasks; the part has one modality in all of them.
            part: Number of the part in the last turn.
            sampling: How to sample.
            records: Of each sample; what is done is written down there.
            seeds: Of each sample.
            drafts: What is given of each sample's part; None where nothing is.
            on_step: Told of every step.
        """
        done = list(samples)
        todo = list(range(len(samples)))
        growth = 1.0
        modality = samples[0].turns[-1].parts[part].modality
        for attempt in range(MAX_GROWTHS + 1):
            whole = [i for i in todo if drafts[i] is None]
            found = self.hole_lengths.of([samples[i] for i in whole], part, sampling, growth=growth)
            tries = []
            for i, (length, looks) in zip(whole, found, strict=True):
                tries.append((i, Blank(length)))
                records[i]["forwards"] = records[i].get("forwards", 0) + looks
            for i in todo:
                if (draft := drafts[i]) is not None:
                    tries += [(i, b) for b in self._blanks(samples[i], part, draft, growth)]
            filled = self._fill_tries(tries, samples, part, sampling, seeds, on_step)
            unfinished = []
            for i, (blank, hole) in filled.items():
                content, closed = self._content(modality, hole["ids"])
                done[i] = self._with_answer(samples[i], part, content, drafts[i], blank)
                name = rule_name(samples[i], part).partition("/")[2]
                records[i]["forwards"] = records[i].get("forwards", 0) + hole["forwards"]
                records[i].setdefault("holes", {})[name] = {
                    "modality": modality,
                    "positions": len(hole["ids"]),
                    "open": blank.num_open + len(hole["ids"]) - blank.length,
                    **({"gaps": list(blank.gap_lengths)} if blank.gaps else {}),
                    **({"began": blank.length} if len(hole["ids"]) > blank.length else {}),
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

    def _blanks(self, sample: Sample, part: int, draft: PartDraft, growth: float) -> list[Blank]:
        """The hole of a drafted part; several where gaps of a text may be of several lengths."""
        ending = self.template.ending(sample.turns[-1].parts, part)
        if not isinstance(draft, TextDraft):
            return [media_blank(draft, self.vocab, ending[1])]
        rule = self.lengths.get(rule_name(sample, part))
        return text_blanks(
            draft,
            self.text,
            ending=ending,
            room=rule.positions(source_length(sample, part)) if rule else 0,
            growth=growth,
        )

    def _fill_tries(
        self,
        tries: list[tuple[int, Blank]],
        samples: list[Sample],
        part: int,
        sampling: Sampling,
        seeds: list[int],
        on_step: StepHook | None,
    ) -> dict[int, tuple[Blank, dict[str, Any]]]:
        """Fill every hole, and of several of one sample keep the likeliest text."""
        found: dict[int, list[tuple[Blank, dict[str, Any]]]] = {}
        for i, blank in tries:
            if not blank.num_open:
                ids = [blank.given[place] for place in range(blank.length)]
                found[i] = [(blank, {"steps": 0, "forwards": 0, "ids": ids})]
        tries = [(i, blank) for i, blank in tries if blank.num_open]
        for start in range(0, len(tries), TOGETHER):
            chosen = tries[start : start + TOGETHER]
            holes = self.holes.fill(
                [samples[i] for i, _ in chosen],
                part,
                [blank for _, blank in chosen],
                sampling,
                seeds=[seeds[i] for i, _ in chosen],
                on_step=on_step,
            )
            for (i, blank), hole in zip(chosen, holes, strict=True):
                found.setdefault(i, []).append((blank, hole))
        return {
            i: several[0]
            if len(several) == 1
            else self._likeliest(samples[i], part, several, sampling)
            for i, several in found.items()
        }

    def _likeliest(
        self,
        sample: Sample,
        part: int,
        several: list[tuple[Blank, dict[str, Any]]],
        sampling: Sampling,
    ) -> tuple[Blank, dict[str, Any]]:
        """The likeliest text of several; the record lists all, and the most forwards of any.

        What counts is all from the first gap on, given words included: gaps that are too short or
        too long move the words behind them to places where they are unlikely.
        """
        _, end = self.template.ending(sample.turns[-1].parts, part)
        texts = [self._content("text", hole["ids"])[0] + end for _, hole in several]
        log_probs: list[float] = []
        for start in range(0, len(texts), TOGETHER):
            log_probs += self.holes.text_log_probs(
                sample,
                part,
                texts[start : start + TOGETHER],
                start=several[0][0].gaps[0][0],
                precision=sampling.precision,
            )
        best = max(range(len(several)), key=lambda n: log_probs[n])
        tried = [
            {"gaps": list(blank.gap_lengths), "log_prob": round(log_prob, 3)}
            for (blank, _), log_prob in zip(several, log_probs, strict=True)
        ]
        blank, hole = several[best]
        forwards = max(record["forwards"] for _, record in several) + 1
        return blank, {**hole, "forwards": forwards, "tried": tried}

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

    def _with_answer(
        self, sample: Sample, part: int, ids: list[int], draft: PartDraft | None, blank: Blank
    ) -> Sample:
        """Write a filled hole into the sample."""
        parts = list(sample.turns[-1].parts)
        modality = parts[part].modality
        if isinstance(draft, TextDraft):
            fillings = [self.template.answer_text(ids[start:stop]) for start, stop in blank.gaps]
            parts[part] = replace(parts[part], text=draft.assemble(fillings))
        elif modality == "text":
            parts[part] = replace(parts[part], text=self.template.answer_text(ids))
        else:
            parts[part] = Part(modality, codes=tuple(self.vocab.to_codes(modality, ids)))
        return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
