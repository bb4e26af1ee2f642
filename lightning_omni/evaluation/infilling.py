"""The `evaluate-infilling` verb: words, halves of pictures and bits of speech filled anew."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_omni.errors import check_within
from lightning_omni.evaluation.asking import cases_of
from lightning_omni.evaluation.outcome import summarize
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.refilling import Refiller
from lightning_omni.evaluation.run import check_wanted, prepare
from lightning_omni.evaluation.suite import Plan
from lightning_omni.files import make_folder
from lightning_omni.generation.config import Sampling, check_seed
from lightning_omni.generation.plain_sampling import to_plain
from lightning_omni.generation.unused_options import check_used, scope_of_tasks
from lightning_omni.pretrained import fingerprint, locate

log = logging.getLogger(__name__)
RESULTS = "infilling.json"
METRICS = {"caption": "exact", "t2i": "attributes", "tts": "wer"}


def evaluate_infilling(
    *,
    model: Path,
    data: Path,
    out: Path,
    split: str,
    limit: int,
    speech_limit: int,
    seed: int,
    batch_size: int = 16,
    sampling: Sampling | None = None,
) -> dict[str, Any]:
    """Take something out of true answers, fill it anew and write `infilling.json`.

    A word of a caption, the left half of a picture and 0.4 s of speech are taken out. Beside them
    stand the true answers, and answers without what makes filling possible.

    Args:
        model: Folder that training exported.
        data: Folder written by prep-data; its media are encoded if they are not yet.
        out: Folder for the results.
        split: Split whose answers are taken.
        limit: Captions and pictures, chosen by the seed.
        speech_limit: Recordings.
        seed: Of the choice of cases and of what is taken out, of sampling and of intervals.
        batch_size: Cases answered at once.
        sampling: How to sample; None for the defaults.

    Raises:
        OmniError: If a folder or a split does not exist.
    """
    check_wanted(list(METRICS), [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(seed, runs=max(limit, speech_limit))
    sampling = sampling or Sampling()
    check_used(sampling, replace(scope_of_tasks(METRICS), whole=frozenset()))
    make_folder(out)
    model = locate(str(model))
    omni, suite = prepare(model, data, list(METRICS))
    plan = Plan(list(METRICS), [split], limit, speech_limit, seed, batch_size)
    assert suite.reconstructor is not None  # noqa: S101 - `prepare` makes one
    refiller = Refiller(omni, suite.reconstructor, sampling, seed, batch_size)
    ways = {"caption": refiller.words, "t2i": refiller.halves, "tts": refiller.bits}
    rows: list[dict[str, Any]] = []
    for task, metric in METRICS.items():
        cases = cases_of(suite, plan, task)
        for way, replies in ways[task](cases).items():
            estimate = summarize(suite.judge(task, cases, replies), metric, seed=seed)
            assert estimate is not None  # noqa: S101 - there are cases
            rows.append({"task": task, "way": way, "metric": metric, **asdict(estimate)})
            log.info(
                "%s %s: %s %.3f (%.3f to %.3f, n = %d)",
                *(task, way, metric, estimate.value, estimate.low, estimate.high, estimate.n),
            )
    results = {
        "model": str(model),
        "fingerprint": fingerprint(model),
        "split": split,
        "seed": seed,
        "sampling": to_plain(sampling),
        **provenance(),
        "rows": rows,
    }
    (out / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
    return results
