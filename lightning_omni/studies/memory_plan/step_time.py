"""The time of a training step: measured, or from arithmetic and a share of the peak, and which."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.studies.memory_plan.settings import PlanOptions


@dataclass(frozen=True, slots=True)
class PeakShare:
    """Share of a GPU's peak, in 16 bits, that training is assumed to reach.

    Attributes:
        value: The share.
        reason: Where it is from.
    """

    value: float
    reason: str


TRANSFORMER = PeakShare(
    0.35, "assumed; torchtitan reports 33 to 39 % for Llama 3 8B under FSDP2 on H100s"
)
# what these are computed from: docs/recipes/full_scale.md
IMAGE_TOKENIZER = PeakShare(
    0.1, "assumed; 7 to 16 % by what Open-MAGVIT2's authors report of 32 V100s"
)
SPEECH_TOKENIZER = PeakShare(
    0.01, "assumed; 1.2 % by what a user of AcademiCodec reports of EnCodec on 8 V100s"
)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of a step on all devices.

    Attributes:
        seconds: Seconds.
        source: Where they are from, in words.
    """

    seconds: float
    source: str


def step_time(flops: float, options: PlanOptions, assumed: PeakShare) -> StepTime:
    """Return the time of a step that was measured, or in which one device does so many FLOP.

    Args:
        flops: FLOP of a step on one device, with what is recomputed.
        options: Options of the plan.
        assumed: Share of the peak, unless the options state one.
    """
    if options.seconds_per_step is not None:
        return StepTime(options.seconds_per_step, "as measured (--seconds_per_step)")
    given = options.utilisation
    share = assumed if given is None else PeakShare(given, "as given by --utilisation")
    source = f"{share.value:.0%} of {options.peak_source} ({share.reason})"
    return StepTime(flops / (options.peak_flop_per_s * share.value), source)
