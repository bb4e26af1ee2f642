"""The `calibrate` verb: what each way of sampling costs and what it is worth."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError, check_within
from lightning_omni.evaluation.asking import ask, cases_of
from lightning_omni.evaluation.outcome import Outcome, kind_of, summarize
from lightning_omni.evaluation.paired import paired_difference
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.run import check_wanted, prepare
from lightning_omni.evaluation.suite import Plan, Suite
from lightning_omni.evaluation.table import primary_of
from lightning_omni.files import make_folder
from lightning_omni.generation.config import Sampling, check_seed
from lightning_omni.generation.defaults import Quality
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.plain_sampling import to_plain
from lightning_omni.generation.qualities import save_qualities
from lightning_omni.generation.unused_options import check_ways
from lightning_omni.pretrained import FOLDER, fingerprint, locate
from lightning_omni.studies.calibration_table import markdown
from lightning_omni.studies.choose import Candidate, by_quality, choose
from lightning_omni.studies.pareto import draw_pareto
from lightning_omni.tokenizers.speech_features import ContinuousSpeech

log = logging.getLogger(__name__)
CALIBRATION, TABLE = "calibration.json", "calibration.md"


def calibrate(
    *,
    model: Path,
    data: Path,
    out: Path,
    tasks: list[str],
    ways: dict[str, Sampling],
    split: str,
    limit: int,
    speech_limit: int,
    seed: int,
    batch_size: int = 16,
    into_model: bool = False,
    continuous_speech: ContinuousSpeech | None = None,
) -> dict[str, Any]:
    """Answer the same cases in several ways and write a table, its JSON and a curve per task.

    It says which way each quality should be: the best way for `best`, and the cheapest within one
    standard error of it for `balanced`, within two for `fast`. All of it is written after each
    task, so that of a stopped run the tasks that are done are kept.

    Args:
        model: Folder that training exported.
        data: Folder written by prep-data.
        out: Folder for the results.
        tasks: Tasks to answer.
        ways: Ways of sampling by name; differences are to the first.
        split: A split that no reported number comes from.
        limit: Cases per task, chosen by the seed.
        speech_limit: The same where the recognizer must listen.
        seed: Of the choice of cases and of sampling.
        batch_size: Cases answered at once.
        into_model: Write the choice into the model's folder, where `generate --quality` reads it.
        continuous_speech: By what a model with a projector hears, as in its recipe.

    Raises:
        OmniError: If a folder, a task or a split does not exist, or there is nothing to compare.
    """
    check_wanted(tasks, [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(seed, runs=max(limit, speech_limit))
    if not ways:
        raise OmniError("no ways of sampling to compare; name at least one under `ways`")
    check_ways(ways, tasks)
    model = locate(str(model))
    if into_model and model == FOLDER:
        raise OmniError(
            "into_model would change the model of the package; copy its folder and calibrate that"
        )
    make_folder(out)
    omni, suite = prepare(model, data, tasks, continuous_speech)
    plan = Plan(tasks, [split], limit, speech_limit, seed, batch_size)
    omni.qualities = {}  # ways are measured against the package's own defaults
    rows: list[dict[str, Any]] = []
    choices: dict[str, dict[Quality, str]] = {}
    for task in tasks:
        found, choices[task] = _compare(omni, suite, plan, task, ways)
        rows += found
        results = {
            "model": str(model),
            "fingerprint": fingerprint(model),
            "ways": {name: to_plain(way) for name, way in ways.items()},
            "seed": seed,
            **provenance(),
            "choice": by_quality(choices),
            "rows": rows,
        }
        (out / CALIBRATION).write_text(json.dumps(results, indent=1) + "\n")
        (out / TABLE).write_text(markdown(rows, choices))
        draw_pareto(found, out)
        if into_model:
            save_qualities({q: {task: ways[w]} for q, w in choices[task].items()}, model)
    log.info("wrote %s", out / TABLE)
    return results


def _compare(
    omni: Omni, suite: Suite, plan: Plan, task: str, ways: dict[str, Sampling]
) -> tuple[list[dict[str, Any]], dict[Quality, str]]:
    """Rows of one task, and the way each quality should be."""
    cases = cases_of(suite, plan, task)
    rows = []
    first: list[Outcome] = []
    of_way: dict[str, list[Outcome]] = {}
    for name, way in ways.items():
        answered = ask(omni, suite, plan, task, cases, way)
        outcomes = answered.outcomes
        first, of_way[name] = first or outcomes, outcomes
        metric = primary_of(task, outcomes)
        estimate = summarize(outcomes, metric, seed=plan.seed)
        assert estimate is not None  # noqa: S101 - there are cases
        difference = paired_difference(outcomes, first, metric)
        rows.append(
            {
                "task": task,
                "way": name,
                "metric": metric,
                "is_lower_better": kind_of(metric) == "error_rate",
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "difference": difference.mean,
                "difference_error": difference.error,
                "forwards": answered.forwards,
                "seconds": answered.seconds,
            }
        )
        log.info("%s", line(rows[-1]))
    return rows, _choice(rows, of_way)


def _choice(rows: list[dict[str, Any]], of_way: dict[str, list[Outcome]]) -> dict[Quality, str]:
    """Compare every way with the best, of equally good ones the cheapest."""
    sign = 1.0 if rows[0]["is_lower_better"] else -1.0
    best = min(rows, key=lambda row: (sign * row["value"], row["forwards"]))
    candidates = []
    for row in rows:
        found = paired_difference(of_way[row["way"]], of_way[best["way"]], row["metric"])
        error = 0.0 if math.isnan(found.error) else found.error
        candidates.append(Candidate(row["way"], row["forwards"], sign * found.mean, error))
    return choose(candidates)


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    return (
        f"{row['task']} {row['way']}: {row['metric']} {row['value']:.3f} ({row['low']:.3f} to "
        f"{row['high']:.3f}, n = {row['n']}), {row['difference']:+.3f} ± "
        f"{row['difference_error']:.3f} to the first; {row['forwards']:.1f} forwards, "
        f"{row['seconds']:.3f} s"
    )
