"""Cause every fault as often as the campaign wants, and write docs/results/faults.md.

    python tests/faults/report.py [--only AREA ...] [--share 0.1] [--out runs/faults]

Outcomes are kept in the folder as they come, so the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from fault import Fault, Outcome

AREAS = ("training", "checkpoints", "data", "media", "disks", "configuration")
"""Modules beside this file, each with a tuple `FAULTS`."""
PAGE = Path(__file__).parents[2] / "docs" / "results" / "faults.md"
_HEAD = """# Faults, caused on purpose

Each row is a fault that `make fault-report` causes: the calls of its function of those that the
whole campaign has, the faults these caused, how often what followed was right, and what it was.
The counts of the whole campaign are in `tests/faults/`; the tests run a few of each kind.
"""


def say(text: str) -> None:
    """Write a line to the terminal at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@functools.cache
def commit() -> str:
    """Return the commit of the working tree when this is first asked."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def faults_of(area: str) -> tuple[Fault, ...]:
    """Return the faults of an area."""
    found: tuple[Fault, ...] = importlib.import_module(area).FAULTS
    return found


def run_fault(fault: Fault, calls: int, journal: Path) -> None:
    """Cause a fault until the journal holds so many calls."""
    done = len(journal.read_text().splitlines()) if journal.exists() else 0
    for number in range(done, calls):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            outcomes = list(fault.run(number, Path(folder)))
        line = {
            "fault": fault.name,
            "seconds": round(time.monotonic() - began, 2),
            "commit": commit(),
            "outcomes": outcomes,
        }
        with journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for one in outcomes:
            if not one.is_right:
                say(f"WRONG {fault.name} #{number}: {one.what} ({one.detail})")


def table_row(fault: Fault, journal: Path) -> str:
    """Return a journal as a row of the table."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    outcomes = [Outcome(*one) for line in lines for one in line["outcomes"]]
    right = sum(one.is_right for one in outcomes)
    counts = Counter((one.what, one.is_right) for one in outcomes)
    what = "; ".join(
        f"{count:,} {text}" if is_right else f"**{count:,} {text}**"
        for (text, is_right), count in counts.most_common()
    )
    seconds = sum(line["seconds"] for line in lines)
    calls = f"{len(lines):,} of {fault.calls:,}"
    commits = ", ".join(dict.fromkeys(line.get("commit", "earlier") for line in lines))
    counts_of_row = f"{len(outcomes):,} | {right:,}"
    return f"| {fault.name} | {calls} | {counts_of_row} | {what} | {seconds:,.0f} s | {commits} |"


def write_page(out: Path) -> None:
    """Write the table of all journals."""
    cpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    model = next((x.split(":")[1].strip() for x in cpu.splitlines() if "Model name" in x), "?")
    rows = ["| fault | calls | count | right | what followed | time | commits |"]
    rows += ["|---|---|---|---|---|---|---|"]
    times = []
    for area in AREAS:
        for number, fault in enumerate(faults_of(area)):
            journal = out / f"{area}-{number:02d}.jsonl"
            if journal.exists():
                rows.append(table_row(fault, journal))
                times.append(journal.stat().st_mtime)
    ended = datetime.fromtimestamp(max(times, default=0), UTC)
    when = (
        f"On {model}; the last outcome is of {ended:%Y-%m-%d %H:%M} UTC. Each row has the commits "
        "of its calls, as `make fault-report` goes on where it ended; earlier ones were not noted."
    )
    PAGE.write_text("\n".join([_HEAD, when, "", *rows]) + "\n", encoding="utf-8")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=AREAS, choices=AREAS, help="areas to run")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the counts to run; 0 writes the page"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of outcomes")
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    given = parser.parse_args()
    tests = Path(__file__).parents[1]  # where their helpers are; the project's packages come first
    sys.path += [str(tests.parent), str(tests)]
    if given.fresh:
        shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True, exist_ok=True)
    for area in given.only:
        for number, fault in enumerate(faults_of(area)):
            calls = math.ceil(fault.calls * given.share)
            say(f"{area}: {fault.name}, {calls} calls")
            run_fault(fault, calls, given.out / f"{area}-{number:02d}.jsonl")
    write_page(given.out)


if __name__ == "__main__":
    main()
