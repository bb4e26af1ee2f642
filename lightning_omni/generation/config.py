"""How a user wants answers to be sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from lightning_omni.errors import OmniError, check_within
from lightning_omni.generation.defaults import GenerationDefaults, Quality
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.growth import Growth

MAX_SEED = 2**63 - 1
MAX_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE = 4096, 100.0, 100.0
MODALITIES = ("text", "speech", "image")
_FIELDS = {"guidance": "guidance_scale", "shift": "shift"}
Precision = Literal["float32", "bfloat16"]
LengthChoice = Literal["fitted", "longest", "predicted", "head"]


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keywords."""

    quality: Quality
    num_steps: int | None
    steps_per_token: float | None
    guidance_scale: float | dict[str, float] | None
    final_guidance_scale: float | None
    temperature: float | None
    refresh_every: int | None
    sampler: Sampler | None
    block_size: int | None
    precision: Precision
    shift: float | dict[str, float]
    stop_at_end: bool
    length: LengthChoice
    length_quantile: float | None
    grow: Growth | None
    trace: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None takes what the quality says for the task.

    Attributes:
        quality: Row of the table in `inference/defaults.py`.
        num_steps: Denoising steps of each hole.
        steps_per_token: Steps as a share of a hole's positions, in place of `num_steps`.
        guidance_scale: Of classifier-free guidance; 0 is off. One scale leads away from answers to
            no request at all, a scale for each modality away from answers without that modality.
        final_guidance_scale: What scales become as the masks run out; None keeps them.
        temperature: 0 takes the likeliest tokens. A `sampler` has its own, so not both are given.
        refresh_every: Steps between two passes over the whole prompt; 1 is exact.
        sampler: Which tokens are committed.
        block_size: Fill holes in blocks of so many positions, from left to right.
        precision: Format of the network's matrix products.
        shift: Of the schedule's times, one for all or by modality of the answer, 1 where not named:
            above 1 commits late, below 1 early.
        stop_at_end: Take no steps for what lies behind an answer's end once that is decided.
        length: How long holes are: by the rules `fitted` on training answers to the request, as
            `longest` in training, as `predicted` by the network from a first look, or as the length
            `head` of the model reads off the request.
        length_quantile: Of the head's distribution: the chance that an answer fits; None is 0.9.
        grow: When holes of text get more masks while they are filled; None is never. Pictures have
            one size; the codes of speech are too uncertain for their uncertainty to ask for more.
        trace: Keep every step's commits in the record.

    Raises:
        OmniError: If a number is out of its range, a word is none of its choices, or an option
            overrules another.
    """

    quality: Quality = "balanced"
    num_steps: int | None = None
    steps_per_token: float | None = None
    guidance_scale: float | dict[str, float] | None = None
    final_guidance_scale: float | None = None
    temperature: float | None = None
    refresh_every: int | None = None
    sampler: Sampler | None = None
    block_size: int | None = None
    precision: Precision = "float32"
    shift: float | dict[str, float] = 1.0
    stop_at_end: bool = True
    length: LengthChoice = "fitted"
    length_quantile: float | None = None
    grow: Growth | None = None
    trace: bool = False

    def __post_init__(self) -> None:
        self._check_words()
        self._check_overruled()
        limits: dict[str, tuple[float | None, float, float]] = {
            "steps": (self.num_steps, 1, MAX_STEPS),
            "steps_per_token": (self.steps_per_token, 0, 100),
            "temperature": (self.temperature, 0, MAX_TEMPERATURE),
            "refresh_every": (self.refresh_every, 1, math.inf),
            "block_size": (self.block_size, 1, math.inf),
            "length_quantile": (self.length_quantile, 0, 1),
            "final_guidance": (self.final_guidance_scale, 0, MAX_GUIDANCE),
        }
        by_modality: list[tuple[str, dict[str, float], float, float]] = [
            ("guidance", self.guidance_scales(), 0, MAX_GUIDANCE),
            ("shift", self.shift if isinstance(self.shift, dict) else {"": self.shift}, 0.01, 100),
        ]
        for option, values, least, most in by_modality:
            if not values and getattr(self, _FIELDS[option]) is not None:
                raise OmniError(
                    f"{option} names no modality; give a number, one for each modality as "
                    "{'text': 1.0}, or leave it out"
                )
            for name, own in values.items():
                limits[f"{option}.{name}".rstrip(".")] = (own, least, most)
                if name not in ("", *MODALITIES):
                    known = ", ".join(MODALITIES)
                    raise OmniError(f"{option} is given for '{name}', wanted modalities: {known}")
        for name, (value, least, most) in limits.items():
            if value is not None:
                check_within(name, value, least, most)

    def _check_words(self) -> None:
        """Refuse a choice that there is not, as a parser would."""
        choices = {"quality": Quality, "precision": Precision, "length": LengthChoice}
        for name, choice in choices.items():
            if getattr(self, name) not in (known := get_args(choice)):
                raise OmniError(
                    f"{name} is '{getattr(self, name)}', wanted one of {', '.join(known)}"
                )

    def _check_overruled(self) -> None:
        """Refuse an option beside another that would leave it without effect."""
        if self.sampler is not None and self.temperature is not None:
            raise OmniError(
                "temperature is given beside a sampler, which has its own; set sampler.temperature"
            )
        if self.num_steps is not None and self.steps_per_token is not None:
            raise OmniError(
                f"steps ({self.num_steps}) and steps_per_token ({self.steps_per_token:g}) are both "
                "given, and the first overrules the second; leave one out"
            )
        if self.length_quantile is not None and self.length != "head":
            raise OmniError(
                f"length_quantile is given but length is '{self.length}'; it is a quantile of what "
                "the length head says: set length: head, or leave it out"
            )

    def steps_of(self, positions: int, defaults: GenerationDefaults) -> int:
        """Steps of a hole, at most one for each position."""
        if self.num_steps is not None:
            wanted = self.num_steps
        elif self.steps_per_token is not None:
            wanted = round(self.steps_per_token * positions)
        else:
            wanted = defaults.num_steps(positions)
        return max(1, min(wanted, positions))

    def quantile_of_head(self) -> float:
        """The chance that an answer fits into the hole that the length head chooses."""
        return 0.9 if self.length_quantile is None else self.length_quantile

    def shift_of(self, modality: str) -> float:
        """The shift of holes of this modality."""
        return self.shift.get(modality, 1.0) if isinstance(self.shift, dict) else self.shift

    def guidance_scales(self) -> dict[str, float]:
        """Scales by the modality that is left out, under "" of the whole request."""
        scale = self.guidance_scale
        if scale is None:
            return {}
        return scale if isinstance(scale, dict) else {"": scale}


def check_seed(seed: int, *, runs: int = 1) -> None:
    """Refuse a seed that generators do not take, or one of those that follow it.

    Args:
        seed: Of the first run.
        runs: So many have a seed each, one more than that before.

    Raises:
        OmniError: If so.
    """
    check_within("seed", seed, 0, MAX_SEED - runs + 1)
