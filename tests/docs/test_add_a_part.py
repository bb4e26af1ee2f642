"""Every page that shows how to add a part is followed literally, in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from follow import blocks_of, touched_files

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "add_a_part"
FILES = {"sampler": 1, "corpus": 1, "task": 1, "metric": 1, "modality": 3}
"""Number of files of the repository that a reader touches."""


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository without weights, which are linked."""
    skipped = shutil.ignore_patterns("mini")
    for name in ("lightning_omni", "data_prep", "recipes", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    (tmp_path / "lightning_omni/assets/mini").symlink_to(ROOT / "lightning_omni/assets/mini")
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_a_page_says_all_that_it_takes(name, copy):
    page = FOLDER / f"{name}.md"
    driver = [sys.executable, "tests/docs/follow.py", str(page)]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        driver, cwd=copy, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.parametrize("name", FILES)
def test_a_part_touches_few_files(name):
    files = touched_files(FOLDER / f"{name}.md")
    assert len(files) == FILES[name]
    line = next(x for x in (FOLDER / "index.md").read_text().splitlines() if f"({name}.md)" in x)
    stated = {Path(file).name for file in line.split("|")[3].split("`")[1::2]}
    assert stated == {Path(file).name for file in files}


def test_every_page_of_the_folder_is_followed():
    assert {page.stem for page in FOLDER.glob("*.md")} == {*FILES, "index"}
    for name in FILES:
        languages = {block.language for block in blocks_of(FOLDER / f"{name}.md")}
        assert {"console", "pycon"} <= languages
