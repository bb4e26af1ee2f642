"""Mistakes of a user: one clear sentence each, exit code 2, no traceback."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from lightning_omni.cli import main

pytestmark = pytest.mark.xdist_group("workplace")
STAGE = str(Path(__file__).parents[1] / "recipes" / "debug" / "stage3.yaml")
IMAGE_RECIPE = str(Path(__file__).parents[1] / "recipes" / "debug" / "image_tokenizer.yaml")
SPEECH_RECIPE = str(Path(__file__).parents[1] / "recipes" / "debug" / "speech_tokenizer.yaml")
MODEL = ["--model", "runs/debug/stage3/export"]


def huge_png(path: Path) -> None:
    """A valid header that promises 900 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + tail

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


@pytest.fixture
def files(workplace):
    """Good and bad media in the current folder."""
    Image.new("RGB", (64, 64), "red").save("good.png")
    huge_png(Path("huge.png"))
    Path("text.png").write_text("not a picture")
    Path("empty.png").write_bytes(b"")
    soundfile.write("good.wav", np.zeros(16000), 16000)
    soundfile.write("empty.wav", np.zeros(0), 16000)
    soundfile.write("long.wav", np.zeros(8000 * 61), 8000)
    soundfile.write("nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    Path("text.wav").write_text("not a sound")
    return workplace


GENERATE = [
    (["--task", "sing"], "unknown task 'sing'; choose one of"),
    (["--task", "t2i", *MODEL], "needs text"),
    (["--task", "t2i", "--text", "", *MODEL], "empty text"),
    (["--task", "t2i", "--text", "x <|mask|>", *MODEL], "special token '<|mask|>'"),
    (["--task", "t2i", "--text", "y" * 20000, *MODEL], "20000 bytes"),
    (["--task", "t2i", "--text", "x", "--image", "good.png", *MODEL], "does not take image"),
    (["--task", "caption", "--image", "gone.png", *MODEL], "no image at 'gone.png'"),
    (["--task", "caption", "--image", "text.png", *MODEL], "not a readable PNG"),
    (["--task", "caption", "--image", "empty.png", *MODEL], "not a readable PNG"),
    (["--task", "caption", "--image", "huge.png", *MODEL], "900000000 pixels"),
    (["--task", "asr", "--audio", "gone.wav", *MODEL], "no audio at 'gone.wav'"),
    (["--task", "asr", "--audio", "text.wav", *MODEL], "not readable audio"),
    (["--task", "asr", "--audio", "empty.wav", *MODEL], "at least"),
    (["--task", "asr", "--audio", "long.wav", *MODEL], "at most 60 s"),
    (["--task", "asr", "--audio", "nan.wav", *MODEL], "not finite"),
    (["--task", "t2i", "--text", "x", "--model", "nowhere"], "no joint model in 'nowhere'"),
    (["--task", "t2i", "--text", "x", "--steps", "0", *MODEL], "steps is 0"),
    (["--task", "t2i", "--text", "x", "--steps", "many", *MODEL], "many"),
    (["--task", "t2i", "--text", "x", "--tempratur", "1", *MODEL], "tempratur"),
    (["--text", "x", *MODEL], "task"),
]

FIT = [
    (["--config", "gone.yaml"], "gone.yaml"),
    (["--config", STAGE, "--data.rowz", "2"], "rowz"),
    (["--config", STAGE, "--data.rows", "two"], "two"),
    (["--config", STAGE, "--model", "lightning_omni.Nothing"], "Nothing"),
    (["--config", STAGE, "--data.data", "data/gone"], "no manifest.json in 'data/gone'"),
    (["--config", STAGE, "--data.image_tokenizer", "gone"], "train it first"),
    (["--config", STAGE, "--data.tasks", '{"sing": 1}'], "unknown task 'sing'"),
    (["--config", STAGE, "--data.row_length", "16"], "raise row_length"),
    (["--config", STAGE, "--model.init_from", "gone"], "no weights of the stage before"),
    (["--config", STAGE, "--data.vocab", '{"text": 9, "speech": 32, "image": 64}'], "text ids"),
    (["--config", STAGE, "--ckpt_path", "gone.ckpt"], "gone.ckpt"),
    (["--config", IMAGE_RECIPE, "--data.data", "data/gone"], "no manifest.json"),
    (["--config", SPEECH_RECIPE, "--data.crop_s", "100000"], "shorten crop_s"),
]

EVALUATE = [
    (["--config", "gone.yaml"], "gone.yaml"),
    (["--model", "gone", "--tasks", "[t2i]"], "no joint model in 'gone'"),
    (["--tasks", "[sing]", "--model", "runs/debug/stage3/export"], "sing"),
]

PREPARE = [
    (["--preset", "enormous"], "enormous"),
    (["--corpus", "image_folder", "--source", "gone", "--out", "o"], "gone"),
    (["--corpus", "tapes", "--source", "gone", "--out", "o"], "tapes"),
    (["--corpus", "messages", "--source", "bad.jsonl", "--out", "o"], "bad.jsonl"),
]


def words(args):
    return " ".join(args)[-60:]


def refused(args, expected, capsys):
    assert main(args) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert expected in error[0]
    assert "Traceback" not in error[0]


@pytest.mark.parametrize(
    ("args", "expected"), GENERATE, ids=lambda x: words(x) if isinstance(x, list) else ""
)
def test_generate_refuses(args, expected, files, capsys):
    refused(["generate", *args], expected, capsys)


@pytest.mark.parametrize(
    ("args", "expected"), FIT, ids=lambda x: words(x) if isinstance(x, list) else ""
)
def test_fit_refuses(args, expected, files, capsys):
    refused(["fit", *args], expected, capsys)


@pytest.mark.parametrize(
    ("args", "expected"), EVALUATE, ids=lambda x: words(x) if isinstance(x, list) else ""
)
def test_evaluate_refuses(args, expected, files, capsys):
    more = [
        "--data",
        "data/smoke",
        "--out",
        "o",
        "--limit",
        "1",
        "--speech_limit",
        "1",
        "--seed",
        "0",
    ]
    more += ["--splits", "[test_iid]"]
    refused(["evaluate", *args, *(more if "--config" not in args else [])], expected, capsys)


@pytest.mark.parametrize(
    ("args", "expected"), PREPARE, ids=lambda x: words(x) if isinstance(x, list) else ""
)
def test_prep_data_refuses(args, expected, files, capsys):
    Path("bad.jsonl").write_text('{"messages": [}\n')
    refused(["prep-data", *args], expected, capsys)


def test_a_damaged_shard_is_named(files, capsys, tmp_path):
    data = tmp_path / "data"
    shutil.copytree("data/smoke", data, ignore=shutil.ignore_patterns("codes"))
    shard = next((data / "media").glob("image-train-*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2 // 512 * 512 : len(raw) // 2 // 512 * 512 + 700] = b"\xff" * 700
    shard.write_bytes(bytes(raw[: len(raw) * 3 // 4]))
    refused(["fit", "--config", IMAGE_RECIPE, "--data.data", str(data)], shard.name, capsys)


def test_a_model_whose_parts_do_not_fit_is_refused(files, capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree("runs/debug/stage3/export", model)
    plain = json.loads((model / "vocab.json").read_text())
    plain["spans"]["image"] = 65
    (model / "vocab.json").write_text(json.dumps(plain))
    args = ["generate", "--task", "t2i", "--text", "x", "--model", str(model)]
    refused(args, "vocab span 'image' has 65 codes", capsys)
