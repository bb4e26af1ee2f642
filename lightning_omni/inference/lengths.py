"""How long a hole must be: rules fitted on the training answers, saved with the model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample

LENGTHS_FILE = "lengths.json"


@dataclass(frozen=True, slots=True)
class LengthRule:
    """A hole has `ceil(ratio * source) + base` positions, terminator included.

    `source` counts the tokens that the answer's length follows: the text that is spoken, the
    speech that is transcribed; it is 0 where the length follows nothing.
    """

    ratio: float
    base: int

    def positions(self, source: int) -> int:
        """Positions for an answer to a source of this many tokens."""
        return int(-(-self.ratio * source // 1)) + self.base


def source_length(sample: Sample, part_index: int, text: TextTokenizer) -> int:
    """Tokens that the length of an answer part follows."""
    answer = sample.turns[-1].parts
    modality = answer[part_index].modality
    asked = [p for turn in sample.turns[:-1] for p in turn.parts]
    if modality == "speech":
        spoken = [p for p in answer[:part_index] if p.modality == "text"] or asked
        return sum(len(text.encode(p.text or "")) for p in spoken if p.modality == "text")
    if modality == "text" and sample.task == "asr":
        return sum(len(p.codes or ()) for p in asked if p.modality == "speech")
    return 0


def part_length(part: Part, text: TextTokenizer) -> int:
    """Positions an answer part takes, its terminator included."""
    if part.modality == "text":
        return len(text.encode(part.text or "")) + 1
    return len(part.codes or ()) + (part.modality == "speech")


def fit_lengths(samples: Iterable[Sample], text: TextTokenizer) -> dict[str, LengthRule]:
    """Fit one rule per `task/part`: the mean ratio, and a base that covers every answer seen."""
    pairs: dict[str, list[tuple[int, int]]] = {}
    for sample in samples:
        for i, part in enumerate(sample.turns[-1].parts):
            pair = source_length(sample, i, text), part_length(part, text)
            pairs.setdefault(f"{sample.task}/{i}", []).append(pair)
    rules = {}
    for name, seen in pairs.items():
        total = sum(source for source, _ in seen)
        ratio = sum(length for _, length in seen) / total if total else 0.0
        base = max(length - int(ratio * source) for source, length in seen)
        rules[name] = LengthRule(round(ratio, 4), max(base, 1))
    return rules


def save_lengths(rules: dict[str, LengthRule], folder: Path) -> None:
    """Write `lengths.json`."""
    plain = {name: asdict(rule) for name, rule in sorted(rules.items())}
    (folder / LENGTHS_FILE).write_text(json.dumps(plain, indent=2) + "\n")


def load_lengths(folder: Path) -> dict[str, LengthRule]:
    """Read `lengths.json`."""
    plain = json.loads((folder / LENGTHS_FILE).read_text())
    return {name: LengthRule(**rule) for name, rule in plain.items()}
