"""How many positions the hole of a whole answer gets."""

from __future__ import annotations

import logging

from lightning_omni.errors import OmniError
from lightning_omni.inference.hole_filler import HoleFiller
from lightning_omni.inference.lengths import LengthRule, rule_name, source_length
from lightning_omni.inference.sampling import LengthChoice
from lightning_omni.types import Sample

log = logging.getLogger(__name__)

FAR = 1.1
"""Beyond the longest input of training by this factor, answers are poor."""
MAX_LOOKS = 3
GROWTH = 1.5


class HoleLengths:
    """Lengths by rule, or as the network predicts.

    Args:
        rules: Fitted on training answers.
        holes: Has the network.
        codebooks: Speech codes per frame.
    """

    def __init__(self, rules: dict[str, LengthRule], holes: HoleFiller, *, codebooks: int) -> None:
        self.rules, self.holes, self.codebooks = rules, holes, codebooks

    def of(
        self, samples: list[Sample], part: int, *, growth: float, choice: LengthChoice
    ) -> list[int]:
        """Positions of each sample's hole.

        Args:
            samples: With one modality in the part.
            part: Number of the part in the last turn.
            growth: Of the rule's length, where a shorter hole did not do.
            choice: See `Sampling.length`.

        Raises:
            OmniError: If there is no rule for a part.
        """
        lengths = [self._by_rule(sample, part, growth, choice) for sample in samples]
        if choice != "predicted" or not samples or _modality(samples[0], part) == "image":
            return lengths
        todo = list(range(len(samples)))
        for _ in range(MAX_LOOKS):
            chosen = [samples[i] for i in todo]
            seen = self.holes.lengths_needed(chosen, part, [lengths[i] for i in todo])
            for i, needed in zip(todo, seen, strict=True):
                lengths[i] = self._whole_frames(samples[i], part, needed or GROWTH * lengths[i])
            todo = [i for i, needed in zip(todo, seen, strict=True) if needed is None]
            if not todo:
                break
        return lengths

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
