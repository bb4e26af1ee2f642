"""Runs on data of one's own: splits that are missing, texts that are too long, dry runs."""

import pytest
from PIL import Image

from data_prep.__main__ import main as prep_data
from lightning_omni.cli import explain_error, main

RECIPE = "recipes/debug/own_data.yaml"
EVALUATION = (
    '[{"class_path": "lightning_omni.callbacks.evaluate_stage.EvaluateStage", "init_args": '
    '{"splits": ["%s"], "limit": 1, "speech_limit": 1, "gallery": 0, "seed": 0}}]'
)
SAMPLES = (
    '[{"class_path": "lightning_omni.callbacks.samples.Samples", '
    '"init_args": {"every_n_steps": 1, "num_per_task": 1, "seed": 0}}]'
)


def pictures(folder, captions):
    folder.mkdir()
    for i, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (i, 2 * i, 9)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of thirty pictures, all of the split train."""
    folder = tmp_path_factory.mktemp("own")
    source = pictures(folder / "in", [f"picture {i}" for i in range(30)])
    out = folder / "data"
    assert prep_data(["--corpus", "image_folder", "--source", str(source), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(data, tmp_path, monkeypatch, pytestconfig):
    """Run a verb of the recipe in an empty folder, for two steps."""
    recipe = pytestconfig.rootpath / RECIPE
    monkeypatch.chdir(tmp_path)

    def run(verb, *args, on=data):
        usual = ["--data.data", str(on), "--trainer.default_root_dir", str(tmp_path / "run")]
        return main([verb, "--config", str(recipe), *usual, "--trainer.max_steps", "2", *args])

    return run


@pytest.mark.parametrize(
    ("split", "words"),
    [("test_iid", "no samples of t2i, caption in test_iid"), ("train", "scenes")],
)
def test_an_evaluation_that_cannot_be_is_refused_before_training(
    split, words, run, tmp_path, capsys
):
    assert run("fit", "--trainer.callbacks", EVALUATION % split) == 2
    assert words in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_answers_are_logged_without_a_validation_split(run, tmp_path, caplog):
    validation = ["--data.val_samples", "2", "--trainer.limit_val_batches", "1"]
    assert run("fit", "--trainer.callbacks", SAMPLES, *validation) == 0
    assert "no answers to t2i, caption are logged" in caplog.text
    assert "no validation: the data have no samples in the split val" in caplog.text


def test_a_verb_that_measures_nothing_fails(run, tmp_path, capsys):
    assert run("fit") == 0
    checkpoint = ["--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt")]
    assert run("test", *checkpoint) == 2
    assert "no samples of t2i, caption in the split test_iid" in capsys.readouterr().err
    assert run("validate", *checkpoint) == 2
    assert "`validate` had no batches" in capsys.readouterr().err
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert run("fit", "--trainer.fast_dev_run", "1") == 0  # a dry run leaves the run alone
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == kept


def test_a_sample_longer_than_a_row_is_named_before_training(run, tmp_path, capsys):
    source = pictures(tmp_path / "in", ["short", "a cat " * 999])
    long = tmp_path / "long"
    args = ["--corpus", "image_folder", "--source", str(source), "--out", str(long)]
    assert prep_data(args) == 0
    assert run("fit", on=long) == 2
    error = capsys.readouterr().err
    assert "tokens but rows have" in error
    assert "(text: 'a cat a cat" in error


def test_a_precision_that_cannot_clip_is_refused_by_name():
    error = RuntimeError("AdamW performs unscaling of gradients internally")  # Lightning's words
    assert "16-mixed cannot clip gradients of a fused optimizer" in explain_error(error)
