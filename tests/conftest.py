"""Shared fixtures: a seeded generator, and one thread so that parallel tests do not fight."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# what no sentence was written for is a bug, and shall look like one
os.environ.setdefault("LIGHTNING_OMNI_TRACEBACK", "1")
# lightning 2.6.6 calls deprecated names of jsonargparse 4.53
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None)  # a busy machine may take its time
settings.load_profile("busy")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(956)


DEBUG = Path(__file__).parents[1] / "recipes" / "debug"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with smoke data, tokenizers and a joint model, all made by the command line."""
    from lightning_omni.cli import main

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "c"]) == 0
        for name in ("image_tokenizer", "speech_tokenizer", "stage3"):
            assert main(["fit", "--config", str(DEBUG / f"{name}.yaml")]) == 0
    return folder


@pytest.fixture
def workplace(trained, monkeypatch):
    """`trained`, as the current folder."""
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def beside(workplace, tmp_path, monkeypatch):
    """Make a folder with the data and some runs of `workplace`, for runs of its own, current."""

    def make(*runs):
        (tmp_path / "data").symlink_to(workplace / "data")
        (tmp_path / "runs/debug").mkdir(parents=True)
        for name in runs:
            (tmp_path / "runs/debug" / name).symlink_to(workplace / "runs/debug" / name)
        monkeypatch.chdir(tmp_path)

    return make
