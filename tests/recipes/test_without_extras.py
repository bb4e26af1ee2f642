"""A debug run needs none of the packages of evaluation."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes/debug/stage3.yaml"
pytestmark = pytest.mark.xdist_group("workplace")

BLOCKED = """
import sys
from lightning_omni.cli import _EXTRAS, main
sys.modules.update(dict.fromkeys(_EXTRAS["eval"]))
sys.exit(main(sys.argv[1:]))
"""


def test_the_debug_recipe_trains_without_the_extra_of_evaluation(beside):
    beside("image_tokenizer", "speech_tokenizer")
    options = ["--config", str(RECIPE), "--trainer.max_steps", "1"]
    command = [sys.executable, "-c", BLOCKED, "fit", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
