"""Lengths of responses: rules fitted on the training answers, saved with the model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.modalities import modality_named
from lightning_omni.samplers.canvas import Denoiser
from lightning_omni.types import Sample

log = logging.getLogger(__name__)

LENGTHS_FILE = "lengths.json"
COVERED = 0.99
"""Share of the training answers that fit their response where the length follows a source."""
FAR = 1.1
"""Factor beyond the longest input of training from which a poor answer is expected."""
LENGTHENING = 1.5
"""Factor by which a response that is too short is lengthened."""
TAIL, END_PROBABILITY, LONGEST = 6, 0.5, 256
"""`lengthen_responses`: last positions of a response, their least mean probability of lying behind
the answer's end, and the longest response that is lengthened."""


@dataclass(frozen=True, slots=True)
class LengthRule:
    """A response has `ceil(ratio * source + base)` positions, terminator included.

    Attributes:
        ratio: positions per unit of the source.
        base: positions beside them.
        largest: largest source seen in training; 0 if unknown.
    """

    ratio: float
    base: float
    largest: int = 0

    def num_positions(self, source: int) -> int:
        """Return the positions for a source of this size; see `source_length`."""
        return max(1, math.ceil(self.ratio * source + self.base))


def response_length(
    rules: Mapping[str, LengthRule],
    template: Template,
    sample: Sample,
    part: int,
    *,
    factor: float = 1.0,
    positions: int | None = None,
) -> int:
    """Return the number of positions for an answer part that is generated whole.

    Args:
        rules: rules of the model, by name.
        template: template of the model, with the sizes of grids and frames.
        sample: sample with its request.
        part: index of the part in the last turn.
        factor: factor on the rule's length, where a shorter response did not end.
        positions: length that the user gave, in place of the rule.

    Raises:
        OmniError: If there is no rule for the part.
    """
    modality = modality_named(sample.turns[-1].parts[part].modality)
    if modality.has_fixed_length:
        return modality.fixed_length(template.sizes)
    if positions is None:
        positions = int(_length_by_rule(rules, sample, part) * factor)
    frame = modality.frame_size(template.sizes)
    return max(-(-positions // frame) * frame, frame)


def configured_response_length(sample: Sample, part: int, config: GenerationConfig) -> int | None:
    """Return the length that a config states for an answer part; None where a rule decides.

    It states none for transcripts, nor for parts of which something is given.
    """
    own = sample.turns[-1].parts[part]
    return config.response_length if own.is_empty and not own.is_transcript else None


def _length_by_rule(rules: Mapping[str, LengthRule], sample: Sample, part: int) -> int:
    rule = rules.get(length_rule_name(sample, part))
    if rule is None:
        known = ", ".join(sorted({name.split("/")[0] for name in rules})) or "no task's lengths"
        raise OmniError(
            f"this model was not trained on task '{sample.task}', so the length of part {part} "
            f"({sample.turns[-1].parts[part].modality}) is not known; it knows {known}, and takes "
            "a length from response_length or from the part's own content"
        )
    source = source_length(sample, part)
    if rule.largest and source > FAR * rule.largest:
        log.warning(
            "%s: the input is %.1f times as long as any in training; expect a poor answer",
            *(sample.task, source / rule.largest),
        )
    return rule.num_positions(source)


def lengthen_responses(
    spans: list[ResponseSpan],
    denoise: Denoiser,
    packed: PackedPrompts,
    allowed: Tensor,
    ends: tuple[int, ...],
) -> list[ResponseSpan]:
    """Return text responses, longer where their last positions are unlikely to be pads.

    Args:
        spans: responses of all samples.
        denoise: the model over their prompts.
        packed: the prompts.
        allowed: ids that a text may hold, Int[G].
        ends: ids that end an answer.

    Source: initial length adjustment of DAEDAL, arXiv:2508.00819.
    """
    logits_at = denoise(packed.ids, packed.response_positions)
    is_end = torch.isin(allowed, torch.tensor(ends, device=allowed.device))
    out, start = [], 0
    for span in spans:
        own = packed.response_positions[start : start + span.length][-TAIL:]
        start += span.length
        probability = logits_at(own, allowed).softmax(-1)[:, is_end].sum(-1).mean()
        if span.is_whole and span.length < LONGEST and probability < END_PROBABILITY:
            longer = max(span.length + 4, int(span.length * LENGTHENING))
            span = ResponseSpan(min(longer, LONGEST))
        out.append(span)
    return out


def source_length(sample: Sample, part: int) -> int:
    """Return the size of the source that determines an answer part's length.

    That is the number of characters of the text that is spoken, the number of codes of the speech
    that is transcribed, and 0 for a part whose length follows neither.
    """
    answer = sample.turns[-1].parts
    modality = answer[part].modality
    request = [p for turn in sample.turns[:-1] for p in turn.parts]
    if modality == "speech":
        earlier = [p for p in answer[:part] if p.modality == "text" and not p.is_transcript]
        return sum(len(p.text or "") for p in earlier or request if p.modality == "text")
    if answer[part].is_transcript or (modality == "text" and sample.task == "asr"):
        return sum(len(p.codes or ()) for p in request if p.modality == "speech")
    return 0


def length_rule_name(sample: Sample, part: int) -> str:
    """Return the name of an answer part's rule: `sqa/transcript`, or `sqa/0` for its first part."""
    return f"{sample.task}/{answer_part_name(sample, part)}"


def answer_part_name(sample: Sample, part: int) -> str:
    """Return `transcript`, or the index of an answer part without counting transcripts."""
    parts = sample.turns[-1].parts
    if parts[part].is_transcript:
        return "transcript"
    return str(sum(not p.is_transcript for p in parts[:part]))


def fit_length_rules(samples: Iterable[Sample], template: Template) -> dict[str, LengthRule]:
    """Fit one rule per answer part, named by `length_rule_name`, by least squares.

    A length is that of the part with its terminator in this template. Where the length follows a
    source, the line is raised until it covers `COVERED` of the answers; else the response has room
    for the longest.
    """
    pairs: dict[str, list[tuple[int, int]]] = {}
    for sample in samples:
        parts = sample.turns[-1].parts
        for i in range(len(parts)):
            pair = source_length(sample, i), len(template.answer_ids(parts, i))
            pairs.setdefault(length_rule_name(sample, i), []).append(pair)
    return {name: _fit_rule(seen) for name, seen in pairs.items()}


def _fit_rule(seen: list[tuple[int, int]]) -> LengthRule:
    source, length = np.array(seen, dtype=np.float64).T
    spread = source - source.mean()
    largest = int(source.max())
    if not spread.any():
        return LengthRule(0.0, float(length.max()), largest)
    ratio = max(0.0, round(float(spread @ length / (spread @ spread)), 4))
    base = float(np.quantile(length - ratio * source, COVERED))
    return LengthRule(ratio, round(base, 4), largest)


def save_length_rules(rules: Mapping[str, LengthRule], folder: Path) -> None:
    """Write `lengths.json`."""
    plain = {name: asdict(rule) for name, rule in sorted(rules.items())}
    (folder / LENGTHS_FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def load_length_rules(folder: Path) -> dict[str, LengthRule]:
    """Read `lengths.json`.

    Raises:
        OmniError: If it is damaged.
    """
    path = folder / LENGTHS_FILE
    plain = read_json_object(path, remedy="export the model again")
    try:
        return {
            name: LengthRule(float(rule["ratio"]), float(rule["base"]), int(rule.get("largest", 0)))
            for name, rule in plain.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OmniError(
            f"'{path}' holds no rules of ratio and base ({error!r}); export the model again"
        ) from error
