"""What `fast`, `balanced` and `best` mean for a model, task by task, as its calibration found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.defaults import Quality
from lightning_omni.generation.plain_sampling import from_plain, given, to_plain

QUALITIES_FILE = "qualities.json"
_INSTEAD = {
    "temperature": "sampler",
    "sampler": "temperature",
    "steps_per_token": "num_steps",
    "num_steps": "steps_per_token",
}
"""What is given takes the place of its other, which would be against it or overrule it."""
Qualities = dict[Quality, dict[str, Sampling]]
"""By quality and task; what is not there follows `inference/defaults.py`."""


def resolve(sampling: Sampling, task: str, qualities: Qualities) -> Sampling:
    """The calibrated way of the sampling's quality, overruled by whatever else the user gave."""
    calibrated = qualities.get(sampling.quality, {}).get(task)
    if calibrated is None:
        return sampling
    own = {name: value for name, value in given(sampling).items() if name != "quality"}
    taken: dict[str, Any] = {other: None for name, other in _INSTEAD.items() if name in own}
    return replace(calibrated, **{**taken, **own})


def save_qualities(qualities: Qualities, folder: Path) -> None:
    """Write `qualities.json` into a model's folder, of each way what differs from the defaults.

    What is known there of other tasks stays.
    """
    known = load_qualities(folder)
    every = {quality: {**known.get(quality, {}), **new} for quality, new in qualities.items()}
    plain = {
        quality: {task: _short(way) for task, way in by_task.items()}
        for quality, by_task in every.items()
    }
    (folder / QUALITIES_FILE).write_text(json.dumps(plain, indent=1) + "\n")


def load_qualities(folder: Path) -> Qualities:
    """Read `qualities.json`; empty where a model was not calibrated.

    Raises:
        OmniError: If it is damaged.
    """
    path = folder / QUALITIES_FILE
    if not path.is_file():
        return {}
    plain = read_json_object(path, remedy="delete it or calibrate the model again")
    known: tuple[Quality, ...] = get_args(Quality)
    damage = f"'{path}' is damaged: %s; delete it or calibrate the model again"
    if unknown := sorted(set(plain) - set(known)):
        raise OmniError(damage % f"it names {', '.join(unknown)}, wanted {', '.join(known)}")
    try:
        return {
            quality: {task: from_plain(way) for task, way in plain[quality].items()}
            for quality in known
            if quality in plain
        }
    except (OmniError, AttributeError) as error:
        raise OmniError(damage % error) from error


def _short(way: Sampling) -> dict[str, Any]:
    kept = given(way)
    return {name: value for name, value in to_plain(way).items() if name in kept}
