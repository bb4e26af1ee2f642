"""What Lightning says during `fit` is said once, and is of use to the user."""

import os
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes/debug/speech_tokenizer.yaml"


def test_fit_writes_no_message_twice_and_none_that_does_not_apply(workplace, tmp_path):
    command = [sys.executable, "-m", "lightning_omni", "fit", "--config", str(RECIPE)]
    environment = os.environ | {"PYTHONPATH": str(RECIPE.parents[2])}
    done = subprocess.run(
        [*command, "--trainer.default_root_dir", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout + done.stderr
    assert said.count("stopped: `max_steps=") == 1
    for unwanted in ("Tip:", "Using ModelCheckpoint", "LeafSpec", "many workers", "gcsfs"):
        assert unwanted not in said, said
