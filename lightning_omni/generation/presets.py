"""The presets of a calibrated model: read, write and resolve them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.generation.config import GenerationConfig, config_from_dict, config_to_dict
from lightning_omni.generation.modality_defaults import Preset
from lightning_omni.whole_files import write_text

PRESETS_FILE, _OLD_PRESETS_FILE = "presets.json", "qualities.json"
Presets = dict[Preset, dict[str, GenerationConfig]]
"""Calibrated configs by preset and task; tasks not named follow `modality_defaults.PRESETS`."""
_EXCLUSIVE = {
    "temperature": "sampler",
    "sampler": "temperature",
    "steps_per_token": "num_steps",
    "num_steps": "steps_per_token",
}


def resolve_preset(config: GenerationConfig, task: str, presets: Presets) -> GenerationConfig:
    """Return the calibrated config of the preset, with the options that the user gave on top."""
    calibrated = presets.get(config.preset, {}).get(task)
    if calibrated is None:
        return config
    own = {name: value for name, value in config.changed_fields().items() if name != "preset"}
    dropped: dict[str, Any] = {other: None for name, other in _EXCLUSIVE.items() if name in own}
    return replace(calibrated, **{**dropped, **own})


def save_presets(presets: Presets, folder: Path) -> None:
    """Write `presets.json` into a model's folder; presets of other tasks there are kept."""
    known = load_presets(folder)
    merged = {preset: {**known.get(preset, {}), **new} for preset, new in presets.items()}
    plain = {
        preset: {task: _changed_fields_to_dict(config) for task, config in by_task.items()}
        for preset, by_task in merged.items()
    }
    write_text(folder / PRESETS_FILE, json.dumps(plain, indent=1) + "\n")


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
            preset: {task: config_from_dict(config) for task, config in plain[preset].items()}
            for preset in known
            if preset in plain
        }
    except (OmniError, AttributeError) as error:
        raise OmniError(damage % error) from error


def _changed_fields_to_dict(config: GenerationConfig) -> dict[str, Any]:
    changed = config.changed_fields()
    return {name: value for name, value in config_to_dict(config).items() if name in changed}
