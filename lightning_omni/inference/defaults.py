"""How each task is sampled unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.entropy_penalty import EntropyPenalty


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Steps per position and guidance of a task.

    Attributes:
        steps_per_token: Steps of a hole as a share of its positions; at least one step.
        max_steps: Upper bound of the steps of a hole.
        guidance_scale: Of classifier-free guidance; 0 is off.
        temperature: 0 takes the likeliest token.
        refresh_every: Steps between two passes over all tokens; in between only the hole is
            computed, and the prompt answers as it was. 1 is exact.
        repetition_penalty: See `EntropyPenalty`.
        position_penalty: See `EntropyPenalty`.
        free_positions: See `EntropyPenalty`.
    """

    steps_per_token: float
    max_steps: int
    guidance_scale: float = 0.0
    temperature: float = 0.0
    refresh_every: int = 1
    repetition_penalty: float = 1.0
    position_penalty: float = 1.0
    free_positions: int = 100

    def num_steps(self, positions: int) -> int:
        """Steps for a hole of this many positions."""
        return max(1, min(self.max_steps, round(self.steps_per_token * positions)))

    def sampler(self, temperature: float | None) -> Sampler:
        """The paper's sampler with this task's penalties."""
        return EntropyPenalty(
            temperature=self.temperature if temperature is None else temperature,
            repetition_penalty=self.repetition_penalty,
            position_penalty=self.position_penalty,
            free_positions=self.free_positions,
        )


_TEXT = GenerationDefaults(steps_per_token=1.0, max_steps=64)
_SPEECH = GenerationDefaults(
    steps_per_token=0.5, max_steps=64, guidance_scale=1.0, position_penalty=2.0, free_positions=4
)
_IMAGE = GenerationDefaults(
    steps_per_token=0.5, max_steps=64, guidance_scale=1.0, position_penalty=2.0
)

DEFAULTS = {
    ("t2i", "image"): _IMAGE,
    ("s2i", "image"): _IMAGE,
}
BY_MODALITY = {"text": _TEXT, "speech": _SPEECH, "image": _IMAGE}


def defaults_for(task: str, modality: str) -> GenerationDefaults:
    """Settings of a task's hole of this modality."""
    return DEFAULTS.get((task, modality), BY_MODALITY[modality])
