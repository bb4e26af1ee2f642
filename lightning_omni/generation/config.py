"""The settings of generation, their presets, and their form in files."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lightning_omni.errors import OmniError, check_within
from lightning_omni.files import read_json_object
from lightning_omni.moved import (
    REMOVED_SETTINGS,
    SETTINGS,
    is_ignored_setting,
    refuse_removed,
    without_modality_key,
)
from lightning_omni.moved import resolve as resolve_path
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.entropy_penalty import EntropyPenalty

Preset = Literal["fast", "balanced", "best"]
Precision = Literal["auto", "float32", "bfloat16"]
PRESETS_FILE, _OLD_PRESETS_FILE = "presets.json", "qualities.json"
MAX_SEED = 2**63 - 1
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
        temperature: Sampling temperature; 0 takes the likeliest tokens. A sampler has its own, so
            not both are given.
        cache_interval: Steps between two passes over the whole prompt; 1 is exact.
        sampler: Rule that selects the tokens to commit: a class of lightning_omni.samplers.
        block_size: Unmask a response in blocks of this many positions, from left to right.
        precision: Format of the network's matrix products; auto is bfloat16 on GPUs and float32
            on CPUs.
        timestep_shift: Shift of the schedule's times; above 1 commits late, below 1 early.
        stop_at_end: Take no steps for positions behind an answer's end.
        response_length: Positions of a text or spoken answer, end included; None predicts it from
            the request, and retries with more where the answer does not end. With adjust_length
            it is the length to begin with.
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

    def changed(self) -> dict[str, Any]:
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


def products_dtype(precision: Precision, device: torch.device) -> torch.dtype:
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

Configs = GenerationConfig | Mapping[str, GenerationConfig]
"""One config for all answer parts, or one by modality; a modality not named takes the defaults."""


def config_of(configs: Configs, modality: str) -> GenerationConfig:
    """Return the config of answer parts of one modality."""
    if isinstance(configs, GenerationConfig):
        return configs
    return configs.get(modality, GenerationConfig())


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

    def sampler(self, temperature: float) -> Sampler:
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


Presets = dict[Preset, dict[str, GenerationConfig]]
"""Calibrated configs by preset and task; tasks not named follow `PRESETS`."""
_EXCLUSIVE = {
    "temperature": "sampler",
    "sampler": "temperature",
    "steps_per_token": "num_steps",
    "num_steps": "steps_per_token",
}


def resolve(config: GenerationConfig, task: str, presets: Presets) -> GenerationConfig:
    """Return the calibrated config of the preset, with the options that the user gave on top."""
    calibrated = presets.get(config.preset, {}).get(task)
    if calibrated is None:
        return config
    own = {name: value for name, value in config.changed().items() if name != "preset"}
    dropped: dict[str, Any] = {other: None for name, other in _EXCLUSIVE.items() if name in own}
    return replace(calibrated, **{**dropped, **own})


def save_presets(presets: Presets, folder: Path) -> None:
    """Write `presets.json` into a model's folder; presets of other tasks there are kept."""
    known = load_presets(folder)
    merged = {preset: {**known.get(preset, {}), **new} for preset, new in presets.items()}
    plain = {
        preset: {task: _only_changed(config) for task, config in by_task.items()}
        for preset, by_task in merged.items()
    }
    (folder / PRESETS_FILE).write_text(json.dumps(plain, indent=1) + "\n")


def load_presets(folder: Path) -> Presets:
    """Read `presets.json`, or `qualities.json` of older exports; empty if neither is there.

    Raises:
        OmniError: If the file is damaged.
    """
    paths = [folder / PRESETS_FILE, folder / _OLD_PRESETS_FILE]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    plain = read_json_object(path, remedy="delete it or calibrate the model again")
    known: tuple[Preset, ...] = get_args(Preset)
    damage = f"'{path}' is damaged: %s; delete it or calibrate the model again"
    if unknown := sorted(set(plain) - set(known)):
        raise OmniError(damage % f"it names {', '.join(unknown)}, wanted {', '.join(known)}")
    try:
        return {
            preset: {task: from_plain(config) for task, config in plain[preset].items()}
            for preset in known
            if preset in plain
        }
    except (OmniError, AttributeError) as error:
        raise OmniError(damage % error) from error


def to_plain(config: GenerationConfig) -> dict[str, Any]:
    """Return every field as JSON; a sampler as `class_path` and `init_args`, as in recipes."""
    plain = {f.name: getattr(config, f.name) for f in fields(config)}
    if config.sampler is not None:
        plain["sampler"] = _plain_sampler(config.sampler)
    return plain


def from_plain(plain: Mapping[str, Any]) -> GenerationConfig:
    """Undo `to_plain`, under the names of today or of the release before.

    Raises:
        OmniError: If a field, a sampler or an argument is unknown.
    """
    values = current_options(plain)
    try:
        if values.get("sampler") is not None:
            values["sampler"] = _build_sampler(values["sampler"])
        return GenerationConfig(**values)
    except (TypeError, KeyError, AttributeError, ImportError) as error:
        raise OmniError(f"{dict(plain)} is no generation config ({error})") from error


def current_options(plain: Mapping[str, Any]) -> dict[str, Any]:
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
        refuse_removed(min(removed))
    return {name: without_modality_key(name, value) for name, value in values.items()}


def _only_changed(config: GenerationConfig) -> dict[str, Any]:
    changed = config.changed()
    return {name: value for name, value in to_plain(config).items() if name in changed}


def _plain_sampler(sampler: Sampler) -> dict[str, Any]:
    kind = type(sampler)
    arguments = {name: getattr(sampler, name) for name in inspect.signature(kind).parameters}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _build_sampler(plain: Mapping[str, Any]) -> Sampler:
    """Build a sampler; only classes of this package are accepted."""
    path = resolve_path(str(plain["class_path"]))
    module, _, name = path.rpartition(".")
    if not f"{module}.".startswith(_SAMPLERS):
        raise OmniError(f"'{path}' is no sampler of {_SAMPLERS.rstrip('.')}")
    sampler = getattr(importlib.import_module(module), name)(**plain.get("init_args", {}))
    if not isinstance(sampler, Sampler):
        raise OmniError(f"'{path}' is no sampler")
    return sampler


def check_seed(seed: int, *, runs: int = 1) -> None:
    """Check that a seed, and the seeds that follow it, fit into 63 bits.

    Args:
        seed: seed of the first run.
        runs: number of runs; each takes the seed of the one before plus 1.

    Raises:
        OmniError: If one does not.
    """
    check_within("seed", seed, 0, MAX_SEED - runs + 1)
