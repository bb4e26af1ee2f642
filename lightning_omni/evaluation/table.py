"""From outcomes to rows: every number with its interval, chance level and ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_omni.evaluation.examples import Case, kind_of_question
from lightning_omni.evaluation.outcome import (
    Estimate,
    Outcome,
    kind_of,
    metric_names,
    summarize,
)
from lightning_omni.evaluation.random_baseline import rule_for
from lightning_omni.evaluation.scorers import PRIMARY

CEILINGS = {
    "asr": "the recognizer on the same real recordings",
    "tts": "the recognizer on the real recordings of the same sentences",
    "t2i": "the scene oracle on the real images of the same captions",
    "s2i": "the scene oracle on the real images of the same captions",
    "svqa": "the true text; the recognizer on the true spoken answers",
    "sqa": "the true text; the recognizer on the true spoken answers",
}
_TEXT_CEILING = "the true text"


@dataclass(frozen=True, slots=True)
class Row:
    """One number. `ceiling`, `reconstruction` and `chance` are on the same cases as `value`."""

    task: str
    split: str
    metric: str
    slice: str | None
    is_primary: bool
    is_lower_better: bool
    value: float
    low: float
    high: float
    n: int
    chance: float | None
    ceiling: float | None
    reconstruction: float | None
    failures: int
    unfinished: int
    verdict: str
    interval: str
    chance_rule: str
    ceiling_rule: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Outcomes of the same cases, answered by the model, the truth, its codes, and by guessing."""

    task: str
    split: str
    cases: Sequence[Case]
    model: Sequence[Outcome]
    truth: Sequence[Outcome]
    reconstruction: Sequence[Outcome] = ()
    guesses: Sequence[Sequence[Outcome]] = field(default_factory=list)


def build_rows(scored: Scored, *, seed: int) -> list[Row]:
    """Rows for every metric, then for the primary one by slice."""
    names = metric_names(scored.model)
    primary = primary_of(scored.task, scored.model)
    rows = [_row(scored, name, None, name == primary, seed=seed) for name in names]
    labels = [slice_of(scored.task, case) for case in scored.cases]
    if len(set(labels)) > 1:
        rows += [
            _row(_only(scored, labels, label), primary, label, False, seed=seed)
            for label in sorted(set(labels))
        ]
    return [row for row in rows if row is not None]


def primary_of(task: str, outcomes: Sequence[Outcome]) -> str:
    """The task's main metric, or exact match where no case has it."""
    return PRIMARY[task] if PRIMARY[task] in metric_names(outcomes) else "exact"


def slice_of(task: str, case: Case) -> str:
    """Group of a case: the kind of question, the family of scene, or the voice."""
    meta = case.meta
    if task in ("asr", "tts"):
        return f"voice {meta.get('voice', 'unknown')}"
    if task in ("t2i", "s2i", "caption"):
        return str(meta.get("family") or meta.get("set") or "all")
    return kind_of_question(case.sample)


def verdict(estimate: Estimate, *, chance: float | None, ceiling: float | None, metric: str) -> str:
    """Say in words where an interval lies."""
    sign = -1 if kind_of(metric) == "error_rate" else 1
    worst, best = sorted((sign * estimate.low, sign * estimate.high))
    if chance is not None and worst <= sign * chance <= best:
        return "not distinguishable from chance"
    if chance is not None and best < sign * chance:
        return "worse than chance"
    if ceiling is not None and best >= sign * ceiling:
        return "at the ceiling"
    return "better than chance" if chance is not None else "measured"


def _row(
    scored: Scored, metric: str, label: str | None, is_primary: bool, *, seed: int
) -> Row | None:
    estimate = summarize(scored.model, metric, seed=seed)
    if estimate is None:
        return None
    draws = [summarize(guess, metric, seed=seed) for guess in scored.guesses]
    guessed = [d.value for d in draws if d is not None]
    chance = sum(guessed) / len(guessed) if guessed else None
    ceiling = summarize(scored.truth, metric, seed=seed)
    reconstruction = summarize(scored.reconstruction, metric, seed=seed)
    top = ceiling.value if ceiling else None
    is_rate = kind_of(metric) == "error_rate"
    return Row(
        task=scored.task,
        split=scored.split,
        metric=metric,
        slice=label,
        is_primary=is_primary,
        is_lower_better=is_rate,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        chance=chance,
        ceiling=top,
        reconstruction=reconstruction.value if reconstruction else None,
        failures=sum(o.failure is not None for o in scored.model if metric in o.metrics),
        unfinished=sum("unfinished" in o.output for o in scored.model if metric in o.metrics),
        verdict=verdict(estimate, chance=chance, ceiling=top, metric=metric),
        interval="bootstrap over utterances" if is_rate else "Wilson",
        chance_rule=rule_for(scored.task),
        ceiling_rule=CEILINGS.get(scored.task, _TEXT_CEILING),
    )


def _only(scored: Scored, labels: Sequence[str], label: str) -> Scored:
    keep = [i for i, have in enumerate(labels) if have == label]
    return Scored(
        scored.task,
        scored.split,
        [scored.cases[i] for i in keep],
        _take(scored.model, keep),
        _take(scored.truth, keep),
        _take(scored.reconstruction, keep),
        [_take(guess, keep) for guess in scored.guesses],
    )


def _take(outcomes: Sequence[Outcome], keep: Sequence[int]) -> list[Outcome]:
    return [outcomes[i] for i in keep] if outcomes else []


def markdown(rows: Sequence[Row]) -> str:
    """Lay rows out as a table."""
    lines = [
        "| task | split | metric | value | 95 % interval | n | failures | chance | "
        "reconstruction | ceiling | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        metric = f"**{r.metric}**" if r.is_primary else r.metric
        metric += f" ({r.slice})" if r.slice else ""
        metric += " ↓" if r.is_lower_better else ""
        lines.append(
            f"| {r.task} | {r.split} | {metric} | {r.value:.3f} | {r.low:.3f} – {r.high:.3f} | "
            f"{r.n} | {r.failures} | {_number(r.chance)} | {_number(r.reconstruction)} | "
            f"{_number(r.ceiling)} | {r.verdict} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
