"""A model in half precision is the same model, half the size."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import QWEN_SHAPE

from lightning_omni.cli import main
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import WEIGHTS_FILE

pytestmark = pytest.mark.xdist_group("workplace")


EXPORT = ["export", "--format", "safetensors", "--dtype", "float16"]


def test_a_model_in_half_precision_answers_and_its_checksums_hold(workplace):
    whole, half = workplace / "runs/debug/stage3/export", workplace / "out/half"
    assert main([*EXPORT, "--model", str(whole), "--output", str(half)]) == 0
    assert "converted to float16" in (half / "README.md").read_text()
    for part in ("", "image_tokenizer", "speech_tokenizer"):
        a = load_file(whole / part / "model.safetensors")
        b = load_file(half / part / "model.safetensors")
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
            torch.testing.assert_close(b[name].to(value.dtype), value, rtol=1e-3, atol=1e-3)
    for line in (half / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split("  ")
        assert hashlib.sha256((half / name).read_bytes()).hexdigest() == wanted
    args = ["--task", "t2i", "--text", "a cat", "--out", "out/cat", "--model", str(half)]
    assert main(["generate", *args]) == 0
    assert json.loads((workplace / "out/cat.json").read_text())["files"] == ["cat.png"]


def test_a_folder_in_use_is_not_overwritten(workplace, capsys):
    folder = str(workplace / "runs/debug/stage3/export")
    assert main([*EXPORT, "--model", folder, "--output", folder]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_the_old_verb_does_the_same_and_says_the_new_one(workplace, caplog):
    whole = str(workplace / "runs/debug/stage3/export")
    assert main([*EXPORT, "--model", whole, "--output", "out/new"]) == 0
    assert main(["shrink", "--model", whole, "--out=out/old"]) == 0
    assert "the verb 'shrink' is now 'export --format safetensors --dtype float16'" in caplog.text
    for part in ("", "image_tokenizer", "speech_tokenizer"):
        new, old = (Path("out", n, part, "model.safetensors") for n in ("new", "old"))
        assert new.read_bytes() == old.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_weight_is_converted_as_torch_does(tmp_path, dtype):
    torch.manual_seed(0)
    model = Transformer(97, [], **QWEN_SHAPE).save_pretrained(tmp_path / "model")
    where = ["--model", str(model), "--output", str(tmp_path / "out")]
    assert main(["export", *where, "--format", "hf", "--dtype", dtype]) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["torch_dtype"] == dtype
    target = getattr(torch, dtype)
    stored = sorted(v.to(target).sum().item() for v in load_file(model / WEIGHTS_FILE).values())
    written = load_file(tmp_path / "out" / WEIGHTS_FILE).values()
    assert {v.dtype for v in written} == {target}
    assert sorted(v.sum().item() for v in written) == stored


def test_a_weight_beyond_the_format_is_refused(tmp_path, capsys):
    model = Transformer(97, [], **QWEN_SHAPE)
    model.norm.weight.data[3] = 1e6
    folder = model.save_pretrained(tmp_path / "model")
    where = ["--model", str(folder), "--output", str(tmp_path / "out")]
    assert main(["export", *where, "--format", "hf", "--dtype", "float16"]) == 2
    assert "norm.weight in" in (said := capsys.readouterr().err)
    assert "beyond the range of float16" in said
    assert not (tmp_path / "out").exists()
