"""`lightning_omni encode` reads a recipe for its data and tokenizers."""

from pathlib import Path

import pytest
from encoding_data import contents, make_data, settings_of

from lightning_omni.cli import main
from lightning_omni.data.encoding.ensure_codes import ensure_codes

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no tokenizer was trained: the recipe takes the bundled
    return make_data(tmp_path / "data")


def encode(recipe, *options):
    given = ("--config", str(RECIPES / recipe), "--data.data", "data", "--device", "cpu")
    return main(["encode", *given, *options])


def test_the_codes_are_those_that_training_finds(data, tmp_path):
    assert encode("stage2.yaml", "--processes", "1") == 0
    codes = ensure_codes(settings_of(data))
    assert contents(codes) == contents(ensure_codes(settings_of(make_data(tmp_path / "other"))))
    assert encode("stage2.yaml", "--executor", "torchrun") == 2  # not started by torchrun


def test_an_array_is_run_part_by_part(data):
    for part in ("1", "0"):
        array = ("--executor", "slurm-array", "--part", part, "--parts", "2")
        assert encode("stage2.yaml", *array) == 0
    assert (settings_of(data).local_codes_folder / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("recipe", "options", "sentence"),
    [
        ("image_tokenizer.yaml", (), "the recipe's data are ImageData; give a recipe of the joint"),
        ("stage2.yaml", ("--executor", "slurm"), "slurm"),
        ("stage2.yaml", ("--process", "2"), "did you mean 'processes'"),
        ("stage2.yaml", ("--processes", "0"), "processes is 0, wanted at least 1"),
        ("debug/stage3.yaml", (), "no image tokenizer in"),
    ],
)
def test_a_wrong_recipe_or_option_is_told_in_a_line(data, recipe, options, sentence, capsys):
    assert encode(recipe, *options) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
