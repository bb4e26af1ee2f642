"""The code computes what it did before the redesign: losses and tokens, see README.md."""

import json
from collections import Counter

import pytest
from cases import TASKS
from compare import MARGIN, STORED, compare_exactly, compare_ids, compare_losses, read, report
from record import record_ids, record_losses

IDS, LOSSES = read(STORED["ids"])["ids"], read(STORED["losses"])["losses"]
SHORT = [
    *(f"default/{task}/0" for task in TASKS),
    *("drawn/t2i/0", "drawn/sqa/2", "guidance1/", "blocks/", "cached/"),
    *("sampler/ReMDM(eta=0.3)", "history/t2i", "timestep_shift", "past_end/tqa"),
    *("blanks/", "region/", "interval/", "masked_image/vqa", "masked_speech/asr", "media_"),
    *("batch/drawn/", "encode/", "old_export/", "old_continuous_export/"),
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
    check_ids(SHORT, 62)


def test_losses_of_the_first_batches():
    check_losses(SHORT_LOSSES, 217)


@pytest.mark.slow
def test_tokens_of_all_cases():
    check_ids(None, 238)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")  # fewer callbacks here
def test_losses_of_all_debug_recipes():
    check_losses(None, 321)


def test_a_changed_token_is_noticed():
    changed = json.loads(json.dumps(IDS))
    clear = next(name for name, case in IDS.items() if (case["margin"]["min"] or 0) > MARGIN)
    next(iter(changed[clear]["parts"].values()))["ids"][0] += 1
    assert list(compare_ids(IDS, changed, Counter())) == [clear]
    assert list(compare_exactly(IDS, changed)) == [clear]


def test_a_changed_loss_is_noticed():
    changed = json.loads(json.dumps(LOSSES))
    changed["speech_tokenizer"]["batches"][2]["train_loss/spectral"] += 1e-2
    assert list(compare_losses(LOSSES, changed, Counter())) == ["speech_tokenizer"]
