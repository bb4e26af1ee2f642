"""The `calibrate` verb: what each way of sampling costs and what it is worth."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.answerers import answer_all
from lightning_omni.evaluation.outcome import Outcome, kind_of, summarize
from lightning_omni.evaluation.pareto import draw_pareto
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.run import OmniAnswerer, check_wanted, plain_sampling, prepare
from lightning_omni.evaluation.suite import Plan, Suite, require_answers
from lightning_omni.evaluation.table import primary_of
from lightning_omni.files import make_folder
from lightning_omni.inference.omni import Omni
from lightning_omni.inference.sampling import Sampling, check_seed
from lightning_omni.pretrained import fingerprint
from lightning_omni.shipped import locate

log = logging.getLogger(__name__)
CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a paired difference between two ways of sampling, and its standard error."""

    mean: float
    error: float


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
) -> dict[str, Any]:
    """Answer the same cases in several ways and write `calibration.json` and a curve per task.

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

    Raises:
        OmniError: If a folder, a task or a split does not exist, or there is nothing to compare.
    """
    check_wanted(tasks, [split], limit=min(limit, speech_limit))
    check_seed(seed)
    if not ways:
        raise OmniError("no ways of sampling to compare; name at least one under `ways`")
    make_folder(out)
    model = locate(str(model))
    omni, suite = prepare(model, data, tasks)
    plan = Plan(tasks, [split], limit, speech_limit, seed, batch_size)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        rows += _compare(omni, suite, plan, task, split, ways)
        results = {
            "model": str(model),
            "fingerprint": fingerprint(model),
            "ways": {name: plain_sampling(way) for name, way in ways.items()},
            "seed": seed,
            **provenance(),
            "rows": rows,
        }
        (out / CALIBRATION).write_text(json.dumps(results, indent=1) + "\n")
    draw_pareto(rows, out)
    log.info("wrote %s", out / CALIBRATION)
    return results


@torch.inference_mode()
def _compare(
    omni: Omni, suite: Suite, plan: Plan, task: str, split: str, ways: dict[str, Sampling]
) -> list[dict[str, Any]]:
    """Rows of one task."""
    cases, _ = suite.cases(task, split, plan)
    if not cases:
        raise OmniError(f"task '{task}' has no samples in '{split}'; leave it out")
    rows = []
    first: list[Outcome] = []
    for name, way in ways.items():
        answerer = OmniAnswerer(omni, way)
        replies = answer_all(answerer, cases, batch_size=plan.batch_size, seed=plan.seed)
        require_answers(task, split, replies)
        outcomes = suite.judge(task, cases, replies)
        first = first or outcomes
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
                "forwards": statistics.fmean(r["forwards"] for r in answerer.records),
                "seconds": statistics.fmean(r["seconds"] for r in answerer.records),
            }
        )
        log.info("%s", line(rows[-1]))
    return rows


def paired_difference(
    outcomes: Sequence[Outcome], others: Sequence[Outcome], metric: str
) -> Difference:
    """How much larger a metric is than on the same cases in another way.

    Cases that the metric does not apply to are left out. An error rate is a ratio of sums, so a
    case counts by its errors over the mean length.
    """
    pairs = [
        (a.metrics[metric], b.metrics[metric])
        for a, b in zip(outcomes, others, strict=True)
        if metric in a.metrics and metric in b.metrics
    ]
    length = statistics.fmean(bottom for (_, bottom), _ in pairs)
    differences = [(a - b) / length for (a, _), (b, _) in pairs]
    if len(differences) < 2:
        return Difference(statistics.fmean(differences), float("nan"))
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return Difference(statistics.fmean(differences), error)


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    return (
        f"{row['task']} {row['way']}: {row['metric']} {row['value']:.3f} ({row['low']:.3f} to "
        f"{row['high']:.3f}, n = {row['n']}), {row['difference']:+.3f} ± "
        f"{row['difference_error']:.3f} to the first; {row['forwards']:.1f} forwards, "
        f"{row['seconds']:.3f} s"
    )
