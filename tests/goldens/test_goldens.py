"""The code computes what it did before the redesign: losses and tokens, see README.md."""

from collections import Counter

import pytest
from cases import TASKS
from compare import STORED, compare_ids, compare_losses, read, report
from record import record_ids, record_losses

IDS, LOSSES = read(STORED["ids"])["ids"], read(STORED["losses"])["losses"]
SHORT = [
    *(f"default/{task}/0" for task in TASKS),
    *(f"guidance1/{task}" for task in ("t2i", "vqa", "tts")),
    *(f"blocks/{task}" for task in ("t2i", "sqa", "tts")),
    *(f"cached/{task}" for task in ("s2i", "asr", "caption")),
    "sampler/ReMDM(eta=0.3)",
    "history/t2i",
    "blanks/",
    "region/",
    "interval/",
    "masked_image/vqa",
    "masked_speech/asr",
    "media_",
    "batch/drawn",
    "encode/picture0",
    "encode/caption0",
    "old_",
]
SHORT_LOSSES = ("stage3@stored_tokenizers", "continuous_speech@stored_tokenizers")


def check_ids(only: list[str] | None, least: int) -> None:
    """Compare generated tokens; `least` cases are decided clearly enough to be equal anywhere."""
    known = {n: case for n, case in IDS.items() if only is None or n.startswith(tuple(only))}
    counts: Counter[str] = Counter()
    found = compare_ids(known, record_ids(only), counts)
    assert not found, report(found)
    assert counts["cases compared in full"] >= least, counts


def check_losses(only: tuple[str, ...] | None, least: int) -> None:
    known = {name: run for name, run in LOSSES.items() if only is None or name in only}
    counts: Counter[str] = Counter()
    found = compare_losses(known, record_losses(only), counts)
    assert not found, report(found)
    assert counts["losses"] >= least, counts


def test_tokens_of_each_task_and_way_of_generation():
    check_ids(SHORT, 40)


def test_losses_of_the_first_batches():
    check_losses(SHORT_LOSSES, 100)


@pytest.mark.slow
def test_tokens_of_all_cases():
    check_ids(None, 240)


@pytest.mark.slow
def test_losses_of_all_debug_recipes():
    check_losses(None, 300)


def test_answers_in_a_batch_are_those_alone():
    known = [case for name, case in IDS.items() if name.startswith("batch/")]
    assert len(known) == 20
    assert all(case["as_alone"] for case in known)
