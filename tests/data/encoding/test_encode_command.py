"""`lightning_omni encode` reads a recipe for its data and tokenizers."""

from pathlib import Path

import pytest
import torch
from encoding_data import contents, make_data, settings_of

from lightning_omni.cli import main
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.tokenizers.image import ImageTokenizer

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no tokenizer was trained: the recipe takes the bundled
    return make_data(tmp_path / "data")


def encode(recipe, *options):
    given = ("--config", str(RECIPES / recipe), "--data.data", "data", "--device", "cpu")
    return main(["encode", *given, *options])


def test_the_codes_are_those_that_training_finds(data, tmp_path, caplog):
    caplog.set_level("INFO")
    assert encode("stage2.yaml", "--processes", "1") == 0
    assert "14 samples in 6 shards, in data/codes/" in caplog.text
    assert "Seed set" not in caplog.text
    assert encode("stage2.yaml", "--processes", "2") == 0
    assert "the media of data are encoded, in data/codes/" in caplog.text
    codes = ensure_codes(settings_of(data))
    assert contents(codes) == contents(ensure_codes(settings_of(make_data(tmp_path / "other"))))
    assert encode("stage2.yaml", "--executor", "torchrun") == 2  # not started by torchrun


@pytest.mark.parametrize(("named", "used"), [("cuda:1", "cuda:1"), ("cuda", "cuda:0")])
def test_the_device_reaches_the_tokenizers(data, named, used, monkeypatch):
    class ReachedError(Exception):
        """A tokenizer was told a device."""

    def told(tokenizer, device):
        raise ReachedError(str(device))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ImageTokenizer, "to", told)
    with pytest.raises(ReachedError, match=used):
        encode("stage2.yaml", "--processes", "1", "--device", named)


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
        ("stage2.yaml", ("--device", "gpu1"), "device is 'gpu1', wanted auto, cpu, cuda or cuda:N"),
        ("stage2.yaml", ("--device", "cuda:9"), "device is 'cuda:9' but torch sees"),
        ("debug/stage3.yaml", (), "no image tokenizer in"),
    ],
)
def test_a_wrong_recipe_or_option_is_told_in_a_line(data, recipe, options, sentence, capsys):
    assert encode(recipe, *options) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
