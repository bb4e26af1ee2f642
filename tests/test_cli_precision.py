"""The last word on precision counts."""

import json

import pytest

from lightning_omni.callbacks.precision_plugin import PRECISION_RULE
from lightning_omni.cli_precision import take_precision_rule

WORD = "--config=" + json.dumps({"trainer": {"precision": "auto-bf16"}})
PLUGIN = "--config=" + json.dumps(
    {"trainer": {"precision": None, "plugins": [{"class_path": PRECISION_RULE}]}}
)
FULL = "--config=" + json.dumps({"trainer": {"precision": "32-true"}})


@pytest.mark.parametrize(
    ("args", "is_auto"),
    [
        ([WORD], True),
        ([PLUGIN], True),
        ([FULL], False),
        ([WORD, FULL], False),
        ([FULL, WORD], True),
        ([WORD, "--trainer.precision", "bf16-mixed"], False),
        ([PLUGIN, "--trainer.precision=bf16-mixed"], False),
        ([PLUGIN, "--trainer.plugins", "null"], False),
        ([FULL, "--trainer.precision", "auto-bf16"], True),
        (["--config={}", "--seed_everything", "1"], False),
    ],
)
def test_the_last_word_counts(args, is_auto):
    kept, found = take_precision_rule(["fit", *args])
    assert found is is_auto
    assert "auto-bf16" not in " ".join(kept)
    assert PRECISION_RULE not in " ".join(kept)


def test_other_plugins_stay():
    other = {"class_path": "x.Y"}
    recipe = {"trainer": {"plugins": [other, {"class_path": PRECISION_RULE}]}}
    kept, found = take_precision_rule(["--config=" + json.dumps(recipe)])
    assert found
    assert json.loads(kept[0].removeprefix("--config="))["trainer"]["plugins"] == [other]


def test_the_settings_of_a_run_in_bf16_mixed_ask_for_it_again():
    plugin = {"class_path": PRECISION_RULE, "init_args": {"always": True}}
    written = {"trainer": {"precision": None, "plugins": [plugin]}}
    kept, found = take_precision_rule(["--config=" + json.dumps(written)])
    assert not found
    again = json.loads(kept[0].removeprefix("--config="))["trainer"]
    assert again == {"precision": "bf16-mixed", "plugins": None}
