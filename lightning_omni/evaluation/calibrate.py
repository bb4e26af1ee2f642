"""The `calibrate` verb: what each way of sampling costs and what it is worth."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.asking import ask, cases_of
from lightning_omni.evaluation.outcome import Outcome, kind_of, summarize
from lightning_omni.evaluation.paired import paired_difference
from lightning_omni.evaluation.pareto import draw_pareto
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.run import check_wanted, plain_sampling, prepare
from lightning_omni.evaluation.suite import Plan, Suite
from lightning_omni.evaluation.table import primary_of
from lightning_omni.files import make_folder
from lightning_omni.inference.omni import Omni
from lightning_omni.inference.sampling import Sampling, check_seed
from lightning_omni.pretrained import fingerprint
from lightning_omni.shipped import locate

log = logging.getLogger(__name__)
CALIBRATION = "calibration.json"


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
        rows += _compare(omni, suite, plan, task, ways)
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


def _compare(
    omni: Omni, suite: Suite, plan: Plan, task: str, ways: dict[str, Sampling]
) -> list[dict[str, Any]]:
    """Rows of one task."""
    cases = cases_of(suite, plan, task)
    rows = []
    first: list[Outcome] = []
    for name, way in ways.items():
        answered = ask(omni, suite, plan, task, cases, way)
        outcomes = answered.outcomes
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
                "forwards": answered.forwards,
                "seconds": answered.seconds,
            }
        )
        log.info("%s", line(rows[-1]))
    return rows


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    return (
        f"{row['task']} {row['way']}: {row['metric']} {row['value']:.3f} ({row['low']:.3f} to "
        f"{row['high']:.3f}, n = {row['n']}), {row['difference']:+.3f} ± "
        f"{row['difference_error']:.3f} to the first; {row['forwards']:.1f} forwards, "
        f"{row['seconds']:.3f} s"
    )
