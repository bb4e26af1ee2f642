"""The settings of generation, and their form in files."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from lightning_omni.argument_checks import check_integer, check_within
from lightning_omni.errors import OmniError
from lightning_omni.generation.modality_defaults import ModalityDefaults, Preset
from lightning_omni.old_names import (
    REMOVED_SETTINGS,
    SETTINGS,
    is_ignored_setting,
    refuse_removed_option,
    unwrap_modality_key,
)
from lightning_omni.old_names import resolve_class_path as resolve_path
from lightning_omni.samplers.base import Sampler

Precision = Literal["auto", "float32", "bfloat16"]
MAX_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE = 4096, 100.0, 100.0
_SAMPLERS = "lightning_omni.samplers."


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Settings of one generated answer part; None takes the value of the preset.

    Attributes:
        preset: Preset of steps, guidance and sampler: fast, balanced or best. A calibrated model
            has its own for each task; the other options override it.
        num_steps: Denoising steps of each response.
        steps_per_token: Denoising steps as a share of a response's positions, in place of
            num_steps.
        guidance_scale: Scale of classifier-free guidance; 0 is off.
        temperature: Sampling temperature; 0 takes the likeliest tokens. Not together with sampler,
            which has a temperature of its own.
        cache_interval: The prompt's states are cached and recomputed every so many steps; 1
            recomputes them in each step, which is exact.
        sampler: Rule that selects the tokens to commit: a class of lightning_omni.samplers.
        block_size: Unmask a response in blocks of this many positions, from left to right.
        precision: Format of the network's matrix products; auto is bfloat16 on GPUs and float32
            on CPUs.
        timestep_shift: Shift of the schedule's times; above 1 commits most tokens late, below 1
            early.
        stop_at_end: Take no steps for positions behind an answer's end.
        response_length: Tokens of a text or spoken answer, its end included. By default the length
            is predicted from the request, and an answer that does not end is generated again with
            more tokens. With adjust_length it is the length to begin with.
        adjust_length: Lengthen a text response before its first step while its last positions are
            unlikely to lie behind the answer's end (first stage of DAEDAL, arXiv:2508.00819).
        history: Record every step's tokens and confidences.

    Raises:
        OmniError: If a number is out of range, a word is unknown, or an option overrides another.
    """

    preset: Preset = "balanced"
    num_steps: int | None = None
    steps_per_token: float | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    cache_interval: int | None = None
    sampler: Sampler | None = None
    block_size: int | None = None
    precision: Precision = "auto"
    timestep_shift: float = 1.0
    stop_at_end: bool = True
    response_length: int | None = None
    adjust_length: bool = False
    history: bool = False

    def __post_init__(self) -> None:
        for name, choices in {"preset": get_args(Preset), "precision": get_args(Precision)}.items():
            if getattr(self, name) not in choices:
                raise OmniError(
                    f"{name} is '{getattr(self, name)}', wanted one of {', '.join(choices)}"
                )
        if self.sampler is not None and self.temperature is not None:
            raise OmniError(
                "temperature is given beside a sampler, which has its own; set sampler.temperature"
            )
        if self.num_steps is not None and self.steps_per_token is not None:
            raise OmniError(
                f"num_steps ({self.num_steps}) and steps_per_token ({self.steps_per_token:g}) are "
                "both given, and the first overrides the second; leave one out"
            )
        for name, (least, most) in _LIMITS.items():
            if (value := getattr(self, name)) is not None:
                check_within(name, value, least, most)
                if name in _INTEGERS:
                    check_integer(name, value)

    def changed_fields(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        default = GenerationConfig()
        return {name: value for name, value in values.items() if value != getattr(default, name)}

    def steps_for(self, positions: int, defaults: ModalityDefaults) -> int:
        """Return the steps of a response, at most one per masked position."""
        if self.num_steps is not None:
            wanted = self.num_steps
        else:
            share = self.steps_per_token
            wanted = defaults.steps_for(positions) if share is None else round(share * positions)
        return max(1, min(wanted, positions))


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the format of matrix products on a device."""
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


_LIMITS: dict[str, tuple[float, float]] = {
    "num_steps": (1, MAX_STEPS),
    "steps_per_token": (0, 100),
    "guidance_scale": (0, MAX_GUIDANCE),
    "temperature": (0, MAX_TEMPERATURE),
    "cache_interval": (1, math.inf),
    "block_size": (1, math.inf),
    "timestep_shift": (0.01, 100),
    "response_length": (1, math.inf),
}

_INTEGERS = ("num_steps", "cache_interval", "block_size", "response_length")

Configs = GenerationConfig | Mapping[str, GenerationConfig]
"""One config for all answer parts, or one by modality; a modality not named takes the defaults."""


def config_of_modality(configs: Configs, modality: str) -> GenerationConfig:
    """Return the config of answer parts of one modality."""
    if isinstance(configs, GenerationConfig):
        return configs
    return configs.get(modality, GenerationConfig())


def config_to_dict(config: GenerationConfig) -> dict[str, Any]:
    """Return every field as JSON; a sampler as `class_path` and `init_args`, as in recipes."""
    plain = {f.name: getattr(config, f.name) for f in fields(config)}
    if config.sampler is not None:
        plain["sampler"] = _sampler_to_dict(config.sampler)
    return plain


def config_from_dict(plain: Mapping[str, Any]) -> GenerationConfig:
    """Undo `config_to_dict`, under the names of today or of the release before.

    Raises:
        OmniError: If a field, a sampler or an argument is unknown.
    """
    values = rename_old_settings(plain)
    try:
        if values.get("sampler") is not None:
            values["sampler"] = _sampler_from_dict(values["sampler"])
        return GenerationConfig(**values)
    except (TypeError, KeyError, AttributeError, ImportError) as error:
        raise OmniError(f"{dict(plain)} is no generation config ({error})") from error


def rename_old_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields under today's names.

    Raises:
        OmniError: If a removed field has an effect, or a field is given under both its names.
    """
    values = dict(plain)
    for old in SETTINGS.keys() & values.keys():
        new = SETTINGS[old]
        if new in values:
            raise OmniError(f"{old} is the old name of {new}, and both are given; leave it out")
        values[new] = values.pop(old)
    values = {n: value for n, value in values.items() if not is_ignored_setting(n, value)}
    if removed := REMOVED_SETTINGS.keys() & values.keys():
        refuse_removed_option(min(removed))
    return {name: unwrap_modality_key(name, value) for name, value in values.items()}


def _sampler_to_dict(sampler: Sampler) -> dict[str, Any]:
    kind = type(sampler)
    arguments = {name: getattr(sampler, name) for name in inspect.signature(kind).parameters}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _sampler_from_dict(plain: Mapping[str, Any]) -> Sampler:
    """Build a sampler; only classes of this package are accepted."""
    path = resolve_path(str(plain["class_path"]))
    module, _, name = path.rpartition(".")
    if not f"{module}.".startswith(_SAMPLERS):
        raise OmniError(f"'{path}' is no sampler of {_SAMPLERS.rstrip('.')}")
    sampler = getattr(importlib.import_module(module), name)(**plain.get("init_args", {}))
    if not isinstance(sampler, Sampler):
        raise OmniError(f"'{path}' is no sampler")
    return sampler
