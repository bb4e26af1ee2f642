"""What was measured on one trained model, kept as files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_omni.evaluation.outcome import Outcome
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import read_json_object
from lightning_omni.studies.experiments.recipe import digest


@dataclass(frozen=True, slots=True)
class Measured:
    """Outcomes of the cases of one test, in an order that all models share.

    Attributes:
        keys: Name of each case.
        outcomes: What was measured of each.
        errors: Standard error over cases of a metric, where the measurement gives it.
        forwards: Forward passes per answer; None where nothing is answered.
        seconds: Per answer, likewise.
    """

    keys: list[str]
    outcomes: list[Outcome]
    errors: dict[str, float] | None = None
    forwards: float | None = None
    seconds: float | None = None


def kept(
    folder: Path, name: str, asked: dict[str, Any], measure: Callable[[], Measured]
) -> Measured:
    """Read a measurement of exactly what is asked, or make it and keep it.

    Args:
        folder: Of measurements of one trained model.
        name: Of the test.
        asked: All that the outcomes depend on beside the model.
        measure: Makes it.
    """
    path = folder / f"{name}-{digest(asked)}.json"
    if not path.is_file():
        _write(path, asked, measure())
    return _read(path)


def _write(path: Path, asked: dict[str, Any], measured: Measured) -> None:
    plain = {
        "asked": asked,
        "keys": measured.keys,
        "metrics": [outcome.metrics for outcome in measured.outcomes],
        "failures": [outcome.failure for outcome in measured.outcomes],
        "errors": measured.errors,
        "forwards": measured.forwards,
        "seconds": measured.seconds,
        **provenance(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(plain) + "\n")
    unfinished.rename(path)


def _read(path: Path) -> Measured:
    plain = read_json_object(path, remedy="delete it and run the experiment again")
    outcomes = [
        Outcome({name: (top, bottom) for name, (top, bottom) in metrics.items()}, failure)
        for metrics, failure in zip(plain["metrics"], plain["failures"], strict=True)
    ]
    return Measured(plain["keys"], outcomes, plain["errors"], plain["forwards"], plain["seconds"])
