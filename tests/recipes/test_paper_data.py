"""The script of the paper's corpora: its commands are ours, and they make what the stages read."""

import os
import subprocess
from pathlib import Path

import yaml

from data_prep.__main__ import _make_parser

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
LAYOUT_TASKS = {
    "parquet_dialogues": ["tqa"],
    "llava_onevision": ["vqa"],
    "spoken_dialogues": ["sqa"],
}
MADE_FROM_OTHERS = {"svqa", "s2i"}


def commands(folder):
    """The commands of the script, run with a program that prints its arguments."""
    program = folder / "lightning_omni"
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word"; done; echo\n')
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CORPORA": "/corpora"}
    command = ["bash", str(RECIPES / "data.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [line.rstrip("\t").split("\t") for line in done.stdout.splitlines()]


def test_the_script_makes_the_tasks_of_the_stages(tmp_path):
    made = set()
    for verb, *words in commands(tmp_path):
        assert verb == "prep-data"
        args = _make_parser().parse_args(words)
        assert all(source.startswith("/corpora/") for source in args.source)
        tasks = args.tasks or LAYOUT_TASKS[args.corpus]
        made.update(tasks)
    stages = [yaml.safe_load(path.read_text()) for path in sorted(RECIPES.glob("stage*.yaml"))]
    read = {task for stage in stages for task in stage["data"]["init_args"]["tasks"]}
    assert len(stages) == 3
    assert read == made | MADE_FROM_OTHERS


def test_the_script_needs_the_folder_of_the_corpora():
    command = ["bash", str(RECIPES / "data.sh")]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "set it to the folder of the downloads" in done.stderr
