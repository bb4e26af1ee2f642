"""How many positions the hole of a whole answer gets."""

from __future__ import annotations

import logging
import math

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import LengthChoice, Sampling
from lightning_omni.generation.hole_filler import HoleFiller
from lightning_omni.generation.lengths import LengthRule, rule_name, source_length
from lightning_omni.types import Sample

log = logging.getLogger(__name__)

FAR = 1.1
"""Beyond the longest input of training by this factor, answers are poor."""
MAX_LOOKS = 3
GROWTH = 1.5


class HoleLengths:
    """Lengths by rule, or as the network or its length head predicts.

    Args:
        rules: Fitted on training answers.
        holes: Has the network.
        codebooks: Speech codes per frame.
    """

    def __init__(self, rules: dict[str, LengthRule], holes: HoleFiller, *, codebooks: int) -> None:
        self.rules, self.holes, self.codebooks = rules, holes, codebooks

    def of(
        self, samples: list[Sample], part: int, sampling: Sampling, *, growth: float
    ) -> list[tuple[int, int]]:
        """Positions of each sample's hole, and the forward passes it took to know them.

        Args:
            samples: With one modality in the part.
            part: Number of the part in the last turn.
            sampling: See `Sampling.length` and `Sampling.grow`.
            growth: Of the length, where a shorter hole did not do.

        Raises:
            OmniError: If there is no rule for a part, or no head that is asked.
        """
        if not samples:
            return []
        modality = _modality(samples[0], part)
        if sampling.length == "head" and modality != "image":
            of_head = self.holes.lengths_by_head(samples, part, sampling.quantile_of_head())
            found = [(length * growth, 1) for length in of_head]
        elif sampling.length == "predicted" and modality != "image":
            found = self._as_predicted(samples, part, growth)
        else:
            by_rule = [self._by_rule(sample, part, growth, sampling.length) for sample in samples]
            found = [(float(length), 0) for length in by_rule]
        grows = sampling.grow if modality == "text" and growth == 1 else None
        share = 1.0 if grows is None else grows.start
        return [
            (self._whole_frames(sample, part, math.ceil(share * length)), looks)
            for sample, (length, looks) in zip(samples, found, strict=True)
        ]

    def _as_predicted(
        self, samples: list[Sample], part: int, growth: float
    ) -> list[tuple[float, int]]:
        """What the network says of holes by rule, and the looks that took; see `lengths_needed`."""
        lengths = [self._by_rule(sample, part, growth, "predicted") for sample in samples]
        looks = [0] * len(samples)
        todo = list(range(len(samples)))
        for _ in range(MAX_LOOKS):
            chosen = [samples[i] for i in todo]
            seen = self.holes.lengths_needed(chosen, part, [lengths[i] for i in todo])
            for i, needed in zip(todo, seen, strict=True):
                lengths[i] = self._whole_frames(samples[i], part, needed or GROWTH * lengths[i])
                looks[i] += 1
            todo = [i for i, needed in zip(todo, seen, strict=True) if needed is None]
            if not todo:
                break
        return [(float(length), n) for length, n in zip(lengths, looks, strict=True)]

    def _by_rule(self, sample: Sample, part: int, growth: float, choice: LengthChoice) -> int:
        modality = _modality(sample, part)
        if modality == "image":
            return self.holes.template.image_columns**2
        rule = self.rules.get(rule_name(sample, part))
        if rule is None:
            known = ", ".join(sorted({name.split("/")[0] for name in self.rules}))
            raise OmniError(
                f"this model was not trained on task '{sample.task}', so the length of part {part} "
                f"({modality}) is not known; it knows {known}, and takes a length from a draft"
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
        codebooks = self.codebooks if _modality(sample, part) == "speech" else 1
        return max(-(-int(length) // codebooks) * codebooks, codebooks)


def _modality(sample: Sample, part: int) -> str:
    return sample.turns[-1].parts[part].modality
