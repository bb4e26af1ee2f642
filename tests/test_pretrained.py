"""Recipes fall back on the package's weights only where they say so."""

import subprocess
import sys

import pytest

from lightning_omni import pretrained
from lightning_omni.pretrained import resolve_pretrained


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "package")
    (tmp_path / "package" / "image_tokenizer").mkdir(parents=True)
    for folder in ("package", "package/image_tokenizer"):
        (tmp_path / folder / "config.json").write_text("{}")
    return tmp_path


def test_what_was_trained_comes_first(package):
    own = package / "runs" / "export"
    bundled = package / "package/image_tokenizer"
    for word in ("bundled", "shipped"):  # the latter is the name of before
        assert resolve_pretrained([str(own), word], "image_tokenizer") == bundled
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    assert resolve_pretrained([str(own), "bundled"], "image_tokenizer") == own


def test_the_whole_model_is_the_folder_itself(package):
    assert resolve_pretrained("bundled") == package / "package"


def test_without_the_word_nothing_is_taken_from_the_package(package):
    missing = package / "runs" / "export"
    assert resolve_pretrained(str(missing), "image_tokenizer") == missing
    assert resolve_pretrained([str(missing), "elsewhere"]) == missing


def test_generation_and_evaluation_do_not_wait_for_the_import_of_sharding():
    code = (
        "import sys, lightning_omni.generation.omni, lightning_omni.evaluation.command; "
        "sys.exit(bool({'torch.distributed.fsdp', 'sympy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
