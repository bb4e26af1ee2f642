"""An experiment's numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_omni.studies.experiments.compare import Row

_HEAD = (
    "Each number is the mean over training seeds; ± is its standard error over seeds, or, with one "
    "seed, the brackets hold its 95 % interval over cases. n counts cases, the same for every arm "
    "and seed. The difference is to the first arm, paired by case and seed, with two standard "
    "errors: over seeds (what training again would change; none with one seed) and over cases "
    "(what asking other cases would change). Believe a difference that is large against both. "
    "↓: lower is better."
)


def markdown(name: str, claim: str, rows: Sequence[Row], *, seeds: Sequence[int]) -> str:
    """Lay an experiment out: its claim, what the columns mean, and a line per metric and arm."""
    lines = [
        f"# {name}",
        "",
        f"Claim: {claim}",
        "",
        f"Seeds: {', '.join(map(str, seeds))}. {_HEAD}",
        "",
        "| test | metric | arm | mean | spread | n | difference | s.e. over seeds | "
        "s.e. over cases | forward passes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metric = row.metric + (" ↓" if row.is_lower_better else "")
        lines.append(
            f"| {row.test} | {metric} | {row.arm} | {row.mean:.3f} | {_spread(row)} | {row.n} | "
            f"{_number(row.difference, '+.3f')} | {_number(row.error_over_seeds)} | "
            f"{_number(row.error_over_cases)} | {_number(row.forwards, '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def _spread(row: Row) -> str:
    if row.error is not None:
        return f"± {row.error:.3f}"
    return f"[{_number(row.low)}, {_number(row.high)}]"


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)
