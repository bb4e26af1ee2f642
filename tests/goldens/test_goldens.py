"""The code reproduces what was recorded before the redesign, on any kind of CPU."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import record

MARGIN = 1e-3
CLOSE, CLOSE_LATER = 1e-4, 5e-3
"""Bounds of losses; the image tokenizer's tiny gradients part after its first step."""
FAST = ("default/", "guidance1/", "blocks/t", "refreshed/t", "gaps/", "region/t2i", "interval/tts")
FAST_RECIPES = ("speech_tokenizer", "stage3@stored_tokenizers")
REPO = Path(record.__file__).parents[2]


def read(name):
    data = (record.HERE / name).read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def discrete(case):
    """A case without floats: ids, texts, steps, forward passes."""
    parts = {}
    for name, part in case["holes"].items():
        parts[name] = {k: v for k, v in part.items() if k not in ("trace", "tried")}
        parts[name]["tried"] = [one["gaps"] for one in part.get("tried", ())]
        changes = part.get("trace", ())
        parts[name]["trace"] = [(c["step"], c["position"], c["token"]) for c in changes]
    return {**{k: case[k] for k in ("text", "transcript", "forwards")}, "parts": parts}


def sure_ids_differ(old, new):
    """Count sure ids of a fragile case, and those that differ."""
    sure = [(n, p) for n, positions in old["margin"].get("sure", {}).items() for p in positions]
    wrong = sum(old["holes"][n]["ids"][p] != new["holes"][n]["ids"][p] for n, p in sure)
    return len(sure), wrong


def compare(expected, found):
    """Count cases that are equal, different, and not decided by a margin."""
    counts = Counter()
    for name, new in found.items():
        old = expected[name]
        if "codes" in old:
            same = sum(a == b for a, b in zip(old["codes"], new["codes"], strict=True))
            counts["equal" if same >= 0.95 * len(old["codes"]) else f"different: {name}"] += 1
        elif (old["margin"]["min"] or 0) > MARGIN:
            counts["equal" if discrete(old) == discrete(new) else f"different: {name}"] += 1
        else:
            total, wrong = sure_ids_differ(old, new)
            counts["fragile"] += 1
            counts["sure ids of fragile cases"] += total
            counts[f"different: {name}"] += bool(wrong)
        counts["not as alone"] += new.get("as_alone") is False
    return +counts


def check_ids(only, *, least):
    expected = read("ids.json.gz")["ids"]
    found = record.record_ids(only)
    wanted = {name for name in expected if only is None or name.startswith(tuple(only))}
    assert set(found) == wanted
    counts = compare(expected, found)
    assert not [name for name in counts if name.startswith(("different", "not"))], counts
    assert counts["equal"] >= least, counts


def test_generated_ids_are_those_recorded():
    check_ids(FAST, least=40)


@pytest.mark.slow
def test_all_generated_ids_are_those_recorded():
    check_ids(None, least=220)


def check_losses(names):
    expected, found = read("losses.json")["losses"], record.record_losses(REPO, names)
    for name in names:
        for n, old in enumerate(expected[name]["batches"]):
            new = found[name]["batches"][n]
            bound = CLOSE_LATER if n and name == "image_tokenizer" else CLOSE
            for key, value in old.items():
                assert math.isclose(new[key], value, rel_tol=bound, abs_tol=bound), (name, n, key)


def test_losses_are_those_recorded():
    check_losses(FAST_RECIPES)


@pytest.mark.slow
def test_losses_of_all_debug_recipes_are_those_recorded():
    check_losses(list(read("losses.json")["losses"]))


def test_a_changed_id_is_noticed():
    cases = read("ids.json.gz")["ids"]
    name = next(n for n, c in cases.items() if (c.get("margin", {}).get("min") or 0) > MARGIN)
    changed = json.loads(json.dumps(cases[name]))
    next(iter(changed["holes"].values()))["ids"][0] += 1
    assert compare(cases, {name: changed}) == {f"different: {name}": 1}
