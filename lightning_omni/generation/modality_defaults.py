"""Defaults of generation by preset and modality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.entropy_penalty import EntropyPenalty


@dataclass(frozen=True, slots=True)
class ModalityDefaults:
    """Settings of a preset for one modality.

    Attributes:
        steps_per_token: denoising steps as a share of the positions; at least one step.
        max_steps: upper bound of the steps.
        guidance_scale: scale of classifier-free guidance; 0 is off.
        cache_interval: steps between two passes over all tokens; in between only the response is
            computed, on the cached states of the prompt. 1 is exact.
        entropy_bound: nats that one step may commit, so that steps end early; None commits by the
            schedule, in the order of the paper's sampler.
    """

    steps_per_token: float
    max_steps: int
    guidance_scale: float = 0.0
    cache_interval: int = 1
    entropy_bound: float | None = None

    def steps_for(self, positions: int) -> int:
        """Return the steps for this many positions."""
        return max(1, min(self.max_steps, round(self.steps_per_token * positions)))

    def make_sampler(self, temperature: float) -> Sampler:
        """Return the entropy-bounded sampler, or the paper's order without its penalties."""
        if self.entropy_bound is not None:
            return EntropyBounded(self.entropy_bound, temperature)
        return EntropyPenalty(temperature=temperature)


_TEXT = ModalityDefaults(steps_per_token=1.0, max_steps=64, entropy_bound=0.1)
_SPEECH = ModalityDefaults(steps_per_token=0.5, max_steps=64)
_IMAGE = ModalityDefaults(steps_per_token=0.25, max_steps=64, guidance_scale=1.0)
PRESETS: dict[Preset, dict[str, ModalityDefaults]] = {
    "fast": {
        "text": _TEXT,
        "speech": replace(_SPEECH, cache_interval=4),
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


def modality_defaults(preset: Preset, modality: str) -> ModalityDefaults:
    """Return a preset's settings for a modality; a further one takes one step per token."""
    return PRESETS[preset].get(modality, ModalityDefaults(steps_per_token=1.0, max_steps=256))


Preset = Literal["fast", "balanced", "best"]
