"""How long a hole must be: rules fitted on the training answers, saved with the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.types import Sample

LENGTHS_FILE = "lengths.json"


COVERED = 0.99
"""Share of the training answers that fit a hole at once where the length follows something."""


@dataclass(frozen=True, slots=True)
class LengthRule:
    """A hole has `ceil(ratio * source + base)` positions, terminator included.

    `source` is what the answer's length follows: the characters of the text that is spoken, the
    codes of the speech that is transcribed; it is 0 where the length follows nothing.
    """

    ratio: float
    base: float
    largest: int = 0
    """Largest source seen in training; 0 if unknown."""

    def positions(self, source: int) -> int:
        """Positions for an answer to a source of this size."""
        return max(1, math.ceil(self.ratio * source + self.base))


def source_length(sample: Sample, part_index: int) -> int:
    """Size of what the length of an answer part follows."""
    answer = sample.turns[-1].parts
    modality = answer[part_index].modality
    asked = [p for turn in sample.turns[:-1] for p in turn.parts]
    if modality == "speech":
        said = [p for p in answer[:part_index] if p.modality == "text" and not p.is_transcript]
        spoken = said or asked
        return sum(len(p.text or "") for p in spoken if p.modality == "text")
    if answer[part_index].is_transcript or (modality == "text" and sample.task == "asr"):
        return sum(len(p.codes or ()) for p in asked if p.modality == "speech")
    return 0


def rule_name(sample: Sample, part_index: int) -> str:
    """Name of the rule of an answer part: `sqa/transcript`, or `sqa/0` for the answer's first."""
    parts = sample.turns[-1].parts
    if parts[part_index].is_transcript:
        return f"{sample.task}/transcript"
    return f"{sample.task}/{sum(not p.is_transcript for p in parts[:part_index])}"


def fit_lengths(samples: Iterable[Sample], template: Template) -> dict[str, LengthRule]:
    """Fit one rule per answer part, named by `rule_name`, by least squares.

    A length is that of the part with what ends it in this template.

    Where the length follows a source, the line is raised until it covers `COVERED` of the answers
    seen; else the hole has room for the longest. An answer that does not fit makes its hole grow.
    """
    pairs: dict[str, list[tuple[int, int]]] = {}
    for sample in samples:
        parts = sample.turns[-1].parts
        for i in range(len(parts)):
            pair = source_length(sample, i), len(template.answer_ids(parts, i))
            pairs.setdefault(rule_name(sample, i), []).append(pair)
    return {name: _fit(seen) for name, seen in pairs.items()}


def _fit(seen: list[tuple[int, int]]) -> LengthRule:
    source, length = np.array(seen, dtype=np.float64).T
    spread = source - source.mean()
    largest = int(source.max())
    if not spread.any():
        return LengthRule(0.0, float(length.max()), largest)
    ratio = max(0.0, round(float(spread @ length / (spread @ spread)), 4))
    base = float(np.quantile(length - ratio * source, COVERED))
    return LengthRule(ratio, round(base, 4), largest)


def save_lengths(rules: dict[str, LengthRule], folder: Path) -> None:
    """Write `lengths.json`."""
    plain = {name: asdict(rule) for name, rule in sorted(rules.items())}
    (folder / LENGTHS_FILE).write_text(json.dumps(plain, indent=2) + "\n")


def load_lengths(folder: Path) -> dict[str, LengthRule]:
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
