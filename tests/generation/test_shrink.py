"""A model in half precision is the same model, half the size."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from lightning_omni.cli import main

pytestmark = pytest.mark.xdist_group("workplace")


def test_a_shrunk_model_answers_and_its_checksums_hold(workplace):
    whole, half = workplace / "runs/debug/stage3/export", workplace / "out/half"
    assert main(["shrink", "--model", str(whole), "--out", str(half)]) == 0
    for part in ("", "image_tokenizer", "speech_tokenizer"):
        a = load_file(whole / part / "model.safetensors")
        b = load_file(half / part / "model.safetensors")
        for name, value in a.items():
            torch.testing.assert_close(b[name].to(value.dtype), value, rtol=1e-3, atol=1e-3)
    for line in (half / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split("  ")
        assert hashlib.sha256((half / name).read_bytes()).hexdigest() == wanted
    args = ["--task", "t2i", "--text", "a cat", "--out", "out/cat", "--model", str(half)]
    assert main(["generate", *args]) == 0
    assert json.loads((workplace / "out/cat.json").read_text())["files"] == ["cat.png"]


def test_a_folder_in_use_is_not_overwritten(workplace, capsys):
    folder = str(workplace / "runs/debug/stage3/export")
    assert main(["shrink", "--model", folder, "--out", folder]) == 2
    assert "is not empty" in capsys.readouterr().err
