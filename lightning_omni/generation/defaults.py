"""How each modality is sampled unless told otherwise: three qualities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.entropy_penalty import EntropyPenalty

Quality = Literal["fast", "balanced", "best"]


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Steps per position, guidance and sampler of a hole.

    Attributes:
        steps_per_token: Steps of a hole as a share of its positions; at least one step.
        max_steps: Upper bound of the steps of a hole.
        guidance_scale: Of classifier-free guidance; 0 is off.
        refresh_every: Steps between two passes over all tokens; in between only the hole is
            computed, and the prompt answers as it was. 1 is exact.
        entropy_bound: Commit as many as this bound in nats allows, so that steps end early; None
            commits by the schedule, in the order of the paper's sampler.
    """

    steps_per_token: float
    max_steps: int
    guidance_scale: float = 0.0
    refresh_every: int = 1
    entropy_bound: float | None = None

    def num_steps(self, positions: int) -> int:
        """Steps for a hole of this many positions."""
        return max(1, min(self.max_steps, round(self.steps_per_token * positions)))

    def sampler(self, temperature: float) -> Sampler:
        """The bound, or the paper's order by entropy; its penalties earned no place here."""
        if self.entropy_bound is not None:
            return EntropyBounded(self.entropy_bound, temperature)
        return EntropyPenalty(temperature=temperature)


_TEXT = GenerationDefaults(steps_per_token=1.0, max_steps=64, entropy_bound=0.1)
_SPEECH = GenerationDefaults(steps_per_token=0.5, max_steps=64)
_IMAGE = GenerationDefaults(steps_per_token=0.25, max_steps=64, guidance_scale=1.0)

QUALITIES: dict[Quality, dict[str, GenerationDefaults]] = {
    "fast": {
        "text": _TEXT,
        "speech": replace(_SPEECH, refresh_every=4),
        "image": replace(_IMAGE, max_steps=8),
    },
    "balanced": {"text": _TEXT, "speech": _SPEECH, "image": _IMAGE},
    "best": {
        "text": replace(_TEXT, entropy_bound=None),
        "speech": replace(_SPEECH, steps_per_token=1.0, max_steps=256),
        "image": replace(_IMAGE, steps_per_token=1.0, max_steps=256),
    },
}
"""Measured in docs/results/samplers.md and sampling.md."""


def defaults_for(modality: str, quality: Quality) -> GenerationDefaults:
    """Settings of a hole of this modality."""
    return QUALITIES[quality][modality]
