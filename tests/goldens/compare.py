"""Compare what two checkouts compute, bit for bit or, across kinds of CPUs, with a tolerance.

python tests/goldens/compare.py                   # this checkout with the stored references
python tests/goldens/compare.py OLD NEW           # two checkouts, or two recordings of `record.py`
python tests/goldens/compare.py --tolerant        # on another kind of CPU; see README.md

A checkout is recorded by its own `tests/goldens/record.py`. The exit code is 1 if they differ.
What only the second has is not compared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STORED = {"ids": HERE / "ids.json.gz", "losses": HERE / "losses.json"}
MARGIN = 1e-3
"""Least margin of a decision that another kind of CPU takes too."""
LOSS_TOLERANCE = 1e-4
BATCHES = 3
"""Batches whose losses are compared with a tolerance; later ones drift apart."""
TOLERANCES: dict[str, tuple[float, ...]] = {
    "image_tokenizer": (1e-4, 5e-3, 5e-3),
    "stage3": (),
    "continuous_speech": (),
}
"""Tolerances of each batch where they are not the usual ones. The first steps of AdamW follow the
signs of gradients, so the tiny ones of the image tokenizer soon lead to other weights; its codes
differ then, and so do the losses of what is trained on them, which are not compared. Those on
stored tokenizers are."""
CONFIDENCE_TOLERANCE = MEDIA_TOLERANCE = 1e-2
MIN_EQUAL_CODES = 0.95
MISSING = "(missing)"
Difference = tuple[str, Any, Any]


def read(path: Path) -> dict[str, Any]:
    """Read a recording."""
    data = path.read_bytes()
    plain: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return plain


def differences(a: Any, b: Any, at: str = "") -> Iterator[Difference]:
    """Yield where two plain values differ, with both; keys that only `b` has are skipped."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key, value in a.items():
            yield from differences(value, b.get(key, MISSING), f"{at}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for n, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, two, f"{at}[{n}]")
    elif not (a == b or (_is_nan(a) and _is_nan(b))):
        yield at, a, b


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def compare_exactly(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Difference]]:
    """Return the differences of every case that has some; margins belong to the reference."""
    found = {}
    for name, one in a.items():
        plain = {key: value for key, value in one.items() if key != "margin"}
        if different := list(differences(plain, b.get(name, MISSING))):
            found[name] = different
    return found


# ------------------------------------------------------------------------------------ losses
def compare_losses(
    a: dict[str, Any], b: dict[str, Any], counts: Counter[str]
) -> dict[str, list[Difference]]:
    """Return the losses of the first batches that differ by more than the tolerance.

    Args:
        a: recorded runs of the reference, by name.
        b: other recorded runs.
        counts: counts of compared and other values, added to.
    """
    return {
        name: different
        for name, run in a.items()
        if (different := list(_different_losses(name, run, b.get(name), counts)))
    }


def _different_losses(
    name: str, a: dict[str, Any], b: dict[str, Any] | None, counts: Counter[str]
) -> Iterator[Difference]:
    if b is None or len(b["batches"]) < len(a["batches"]):
        yield "/batches", len(a["batches"]), MISSING if b is None else len(b["batches"])
        return
    tolerances = TOLERANCES.get(name, (LOSS_TOLERANCE,) * BATCHES)
    counts["other losses"] += sum(len(row) for row in a["batches"][len(tolerances) :])
    for n, (tolerance, one, two) in enumerate(
        zip(tolerances, a["batches"], b["batches"], strict=False)
    ):
        counts["losses"] += len(one)
        for key, value in one.items():
            if not is_close(value, two.get(key), tolerance):
                yield f"/batches[{n}]/{key}", value, two.get(key, MISSING)


def is_close(a: float, b: float | None, tolerance: float) -> bool:
    """Return whether two numbers differ by at most the tolerance, relative where they exceed 1."""
    if b is None:
        return False
    return a == b or (_is_nan(a) and _is_nan(b)) or abs(a - b) <= tolerance * max(1.0, abs(a))


# ------------------------------------------------------------------------------------ tokens
def compare_ids(
    a: dict[str, Any], b: dict[str, Any], counts: Counter[str]
) -> dict[str, list[Difference]]:
    """Return what differs though the reference decided it by more than `MARGIN`.

    Args:
        a: recorded cases of the reference, with margins, by name.
        b: other recorded cases.
        counts: counts of cases and ids that were compared, and of the others, added to.
    """
    return {
        name: different
        for name, case in a.items()
        if (different := list(_different_ids(case, b.get(name), counts)))
    }


def _different_ids(
    a: dict[str, Any], b: dict[str, Any] | None, counts: Counter[str]
) -> Iterator[Difference]:
    if b is None:
        yield "", "recorded", MISSING
    elif "codes" in a:
        yield from _different_codes(a["codes"], b["codes"], counts)
    elif (a["margin"]["min"] or 0) > MARGIN:
        counts["cases compared in full"] += 1
        yield from differences(_discrete(a), _discrete(b))
        yield from _different_numbers(a, b)
    else:
        counts["cases compared in part"] += 1
        yield from _different_sure_ids(a, b, counts)


def _different_codes(a: list[int], b: list[int], counts: Counter[str]) -> Iterator[Difference]:
    same = sum(one == two for one, two in zip(a, b, strict=False))
    counts["codes"] += len(a)
    counts["codes that differ"] += len(a) - same
    if len(a) != len(b) or same < MIN_EQUAL_CODES * len(a):
        yield "/codes", a, b


def _different_sure_ids(
    a: dict[str, Any], b: dict[str, Any], counts: Counter[str]
) -> Iterator[Difference]:
    """Yield ids that differ though they were committed before the first fragile step."""
    for name, part in a["parts"].items():
        sure = a["margin"].get("sure", {}).get(name, [])
        other = b["parts"].get(name, {"ids": []})["ids"]
        counts["sure ids of other cases"] += len(sure)
        counts["other ids"] += len(part["ids"]) - len(sure)
        for n in sure:
            if other[n : n + 1] != part["ids"][n : n + 1]:
                yield f"/{name}/ids[{n}]", part["ids"][n], other[n : n + 1]


def _discrete(case: dict[str, Any]) -> dict[str, Any]:
    """Return what no rounding changes."""
    plain = {key: case[key] for key in case if key not in ("margin", "image", "speech", "parts")}
    plain["parts"] = {name: dict(part) for name, part in case["parts"].items()}
    for part in plain["parts"].values():
        for key, number in (("candidates", "log_prob"), ("history", "confidence")):
            if key in part:
                part[key] = [{k: v for k, v in entry.items() if k != number} for entry in part[key]]
    return plain


def _different_numbers(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    """Yield confidences and statistics of media that differ by more than their tolerances."""
    for (at, one), (_, two) in zip(_confidences(a), _confidences(b), strict=False):
        if one is None or two is None:
            if one is not two:
                yield at, one, two
        elif abs(one - two) > CONFIDENCE_TOLERANCE:
            yield at, one, two
    for kind in ("image", "speech"):
        if not _is_close_medium(a[kind], b[kind]):
            yield f"/{kind}", a[kind], b[kind]


def _confidences(case: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, part in case["parts"].items():
        for n, entry in enumerate(part.get("history", ())):
            yield f"/parts/{name}/history[{n}]/confidence", entry["confidence"]


def _is_close_medium(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    room = MEDIA_TOLERANCE * max(a["std"], 1e-6)
    return a["shape"] == b["shape"] and all(abs(a[k] - b[k]) <= room for k in ("mean", "std"))


# -------------------------------------------------------------------------------------- main
def recorded(place: Path | None, folder: Path) -> dict[str, Any]:
    """Return a recording: the stored one, one in a file, or one made now of a checkout."""
    if place is None:
        return {what: read(path)[what] for what, path in STORED.items()}
    if place.is_file():
        return read(place)
    recorder = place.resolve() / "tests/goldens/record.py"
    if not recorder.is_file():
        raise SystemExit(
            f"'{place}' has no {recorder.name}; the stored references are older code's"
        )
    folder.mkdir()
    out = {}
    for what in STORED:
        path = folder / f"{what}.json"
        command = [sys.executable, str(recorder), what, "--out", str(path)]
        with (folder / "log").open("w") as log:
            environment = {**os.environ, "PYTHONPATH": str(place.resolve())}
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
        out[what] = read(path)[what]
    return out


def report(found: dict[str, list[Difference]], most: int = 3) -> str:
    """Return lines that say where cases differ."""
    lines = []
    for name, different in found.items():
        lines.append(f"{name} differs")
        lines += [f"    {at}: {_short(a)} -> {_short(b)}" for at, a, b in different[:most]]
        if len(different) > most:
            lines.append(f"    and {len(different) - most} more")
    return "\n".join(lines)


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def main() -> int:
    """Compare what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("old", nargs="?", type=Path, help="reference; default: the stored one")
    parser.add_argument("new", nargs="?", type=Path, default=HERE.parents[1])
    parser.add_argument("--tolerant", action="store_true")
    args = parser.parse_args()
    num_different = 0
    with tempfile.TemporaryDirectory() as folder:
        old = recorded(args.old, Path(folder) / "old")
        new = recorded(args.new, Path(folder) / "new")
    for what in [name for name in STORED if name in old and name in new]:
        counts: Counter[str] = Counter()
        if not args.tolerant:
            found = compare_exactly(old[what], new[what])
        elif what == "ids":
            found = compare_ids(old[what], new[what], counts)
        else:
            found = compare_losses(old[what], new[what], counts)
        num_different += len(found)
        sys.stdout.write(f"{report(found)}\n" if found else "")
        told = "".join(f"; {name}: {number}" for name, number in counts.items())
        sys.stdout.write(f"{what}: {len(old[what])} cases, {len(found)} differ{told}\n")
    return int(num_different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
