"""Mistakes of a user: one clear sentence each, exit code 2, no traceback."""

import io
import json
import shutil
import struct
import tarfile
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
IMAGE_CHECKPOINT = "runs/debug/image_tokenizer/checkpoints/last.ckpt"
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
    Image.new("RGB", (64, 64)).save("dark.png")
    huge_png(Path("huge.png"))
    Path("text.png").write_text("not a picture")
    Path("empty.png").write_bytes(b"")
    soundfile.write("good.wav", np.zeros(16000), 16000)
    soundfile.write("empty.wav", np.zeros(0), 16000)
    soundfile.write("long.wav", np.zeros(8000 * 61), 8000)
    soundfile.write("nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    Path("text.wav").write_text("not a sound")
    soundfile.write("slow.wav", np.zeros(50), 1)
    Path("folder.txt").mkdir(exist_ok=True)
    Path("latin.yaml").write_bytes(b"caf\xe9: 1\n")
    return workplace


DRAW = ["--task", "t2i", "--text", "x", "--image", "good.png"]
SAY = ["--task", "tts", "--text", "x", "--audio", "good.wav"]
DESCRIBE = ["--task", "caption", "--image", "good.png"]
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
    (["--task", "t2i", "--text", "x", "--num_steps", "0", *MODEL], "num_steps is 0"),
    (["--task", "t2i", "--text", "x", "--num_steps", "many", *MODEL], "many"),
    (["--task", "t2i", "--text", "x", "--num_steps", "-3", *MODEL], "num_steps is -3, wanted 1 to"),
    (["--task", "t2i", "--text", "x", "--seed", "9" * 25, *MODEL], "seed is 9"),
    (["--task", "t2i", "--text", "x", "--seed", "-1", *MODEL], "seed is -1"),
    (
        ["--task", "t2i", "--text", "x", "--guidance_scale", "nan", *MODEL],
        "guidance_scale: Expected a float",
    ),
    (["--task", "t2i", "--text", "x", "--temperature", "-1", *MODEL], "temperature is -1"),
    (["--task", "t2i", "--text", "x", "--preset", "ultra", *MODEL], "one of 'fast', 'balanced'"),
    (["--task", "t2i", "--text", "x", "--precision", "int8", *MODEL], "one of 'auto', 'float32'"),
    (["--task", "t2i", "--text", "x", "--sampler", "Nope", *MODEL], "wanted a class by its name"),
    (["--task", "tts", "--text", "x", "--voice", "nobody", *MODEL], "it knows espeak-en-us"),
    (["--task", "tqa", "--text", "x", "--voice", "nobody", *MODEL], "takes no voice"),
    (["--task", "chat", *MODEL], "task 'chat' is for training; choose one of asr"),
    (["--task", "tqa", "--text", "x", "--out", "good.png/x", *MODEL], "cannot write into"),
    (["--task", "tqa", "--text", "x", "--out", "folder", *MODEL], "'folder.txt' is a folder"),
    (["--task", "tqa", "--text", "x", "--out", "..", *MODEL], "--out is '..'"),
    (["--task", "t2i", "--text", "x", "--out", "a.jpg", *MODEL], "pictures are .png"),
    (["--task", "caption", "--image", ".", *MODEL], "'.' is a folder, wanted a file"),
    (["--task", "asr", "--audio", "slow.wav", *MODEL], "1 samples per second"),
    (["--task", "t2i", "--text", "x", "--tempratur", "1", *MODEL], "tempratur"),
    (["--text", "x", *MODEL], "task"),
    (["--task", "t2i", "--text", "x", "--mask", "good.png", *MODEL], "--mask is given without"),
    (["--task", "tts", "--text", "x", "--intervals", "0-1", *MODEL], "intervals is given without"),
    ([*DRAW, "--mask", "gone.png", *MODEL], "no image at 'gone.png'"),
    ([*DRAW, "--mask", "text.png", *MODEL], "not a readable PNG"),
    ([*DRAW, "--mask", "dark.png", *MODEL], "the mask is empty"),
    ([*SAY, "--intervals", "soon", *MODEL], "intervals is 'soon', wanted seconds such as"),
    ([*SAY, "--intervals", "0.5-0.2", *MODEL], "the interval 0.5-0.2 is not within the speech"),
    ([*SAY, "--intervals", "0.5-9", *MODEL], "which lasts 1 s"),
    ([*SAY, "--infill_audio", "good.wav", "--intervals", "0-1", *MODEL], "does not take speech"),
    (["--task", "tts", "--text", "x", "--infill_audio", "gone.wav", *MODEL], "no audio at 'gone"),
    (
        ["--task", "tts", "--text", "x", "--infill_audio", "good.wav", *MODEL],
        "nothing of the answer",
    ),
    ([*DESCRIBE, "--infill_text", "a cat", *MODEL], "write ___ into its text"),
    ([*DESCRIBE, "--infill_text", "", *MODEL], "the infill text is empty"),
    ([*DESCRIBE, "--text", "a ___{99}", *MODEL], "a blank of the infill text has 99 tokens"),
    ([*DESCRIBE, "--text", "a ___ <|mask|>", *MODEL], "special token '<|mask|>'"),
    ([*DESCRIBE, "--text", "a cat", *MODEL], "does not take text"),
    ([*DESCRIBE, "--infill_image", "good.png", *MODEL], "but the infill holds image"),
]

FIT = [
    (["--config", "gone.yaml"], "gone.yaml"),
    (["--config", STAGE, "--data.rowz", "2"], "'rowz' is not accepted (did you mean 'rows'?)"),
    (["--config", STAGE, "--data.rows", "two"], "two"),
    (["--config", STAGE, "--model", "lightning_omni.Nothing"], "Nothing"),
    (["--config", STAGE, "--data.data", "data/gone"], "no manifest.json in 'data/gone'"),
    (["--config", STAGE, "--data.image_tokenizer", "gone"], "train it first"),
    (["--config", STAGE, "--data.tasks", '{"sing": 1}'], "unknown task 'sing'"),
    (["--config", STAGE, "--data.row_length", "16"], "raise data.row_length"),
    (["--config", STAGE, "--model.init_from", "gone"], "no weights of the stage before"),
    (["--config", STAGE, "--data.vocab", '{"text": 9, "speech": 32, "image": 64}'], "text ids"),
    (["--config", STAGE, "--ckpt_path", "gone.ckpt"], "gone.ckpt"),
    (["--config", STAGE, "--ckpt_path", "good.png"], "'good.png' is not a checkpoint"),
    (["--config", STAGE, "--ckpt_path", IMAGE_CHECKPOINT], "of another model"),
    (["--config", "latin.yaml"], "not UTF-8"),
    (["--config", STAGE, "--seed_everything", "-5"], "seed_everything is -5"),
    (["--config", STAGE, "--data.tasks", "{}"], "no task a share"),
    (["--config", STAGE, "--data.tasks", '{"t2i": -1, "tqa": 1}'], "data.tasks.t2i is -1"),
    (["--config", STAGE, "--data.vocab", '{"speech": 32, "image": 64}'], "no text"),
    (["--config", STAGE, "--data.rows", "0"], "data.rows is 0"),
    (["--config", STAGE, "--data.max_tail_pads", '{"text": -1}'], "max_tail_pads.text is -1"),
    (["--config", STAGE, "--data.condition_dropout", "2"], "condition_dropout is 2"),
    (["--config", STAGE, "--model.warmup_steps", "-5"], "warmup_steps is -5"),
    (["--config", STAGE, "--model.optimizer.lr", "-1"], "model.optimizer: "),
    (["--config", STAGE, "--trainer.accelerator", "gpu"], "gpu"),
    (["--config", STAGE, "--trainer.devices", "0"], "devices"),
    (["--config", STAGE, "--data.transcribe_first", "[t2i]"], "transcribe_first names 't2i'"),
    (["--config", STAGE, "--data.text_ranks", "text.wav"], "no text ranks"),
    (["--config", IMAGE_RECIPE, "--data.image_size", "0"], "image_size is 0"),
    (["--config", IMAGE_RECIPE, "--data.batch_size", "0"], "batch_size is 0"),
    (["--config", SPEECH_RECIPE, "--data.sample_rate", "0"], "sample_rate is 0"),
    (["--config", SPEECH_RECIPE, "--data.crop_s", "-1"], "crop_s is -1"),
    (["--config", IMAGE_RECIPE, "--data.data", "data/gone"], "no manifest.json"),
    (["--config", SPEECH_RECIPE, "--data.crop_s", "100000"], "shorten crop_s"),
]

EVALUATE = [
    (["--config", "gone.yaml"], "gone.yaml"),
    (["--model", "gone", "--tasks", "[t2i]"], "no joint model in 'gone'"),
    (["--tasks", "[sing]", "--model", "runs/debug/stage3/export"], "sing"),
    (["--sampling.num_steps", "-2"], "steps is -2"),
    (["--batch_size", "0"], "batch_size is 0"),
    (["--out", "good.png"], "cannot write into 'good.png'"),
]

PREPARE = [
    (["--preset", "enormous"], "enormous"),
    (["--corpus", "image_folder", "--source", "gone", "--out", "o"], "gone"),
    (["--preset", "smoke", "--out", "good.png"], "'good.png' is a file"),
    (["--preset", "smoke", "--out", "good.png/x"], "cannot write into"),
    (["--preset", "smoke", "--out", "precious"], "contains 'thesis.tex'"),
    (["--preset", "demo", "--out", "data/smoke"], "preset smoke, wanted demo"),
    (["--preset", "smoke", "--source", "x"], "--source is only used with --corpus"),
    (["--corpus", "messages", "--source", "latin.jsonl", "--out", "o"], "line 1 is not JSON"),
    (["--corpus", "messages", "--source", "shape.jsonl", "--out", "o"], "images is 7"),
    (["--corpus", "messages", "--source", "null.jsonl", "--out", "o"], "the content None"),
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
    usual = "--model runs/debug/stage3/export --tasks [tqa] --data data/smoke --out o --limit 1"
    usual += " --speech_limit 1 --seed 0 --splits [test_iid]"
    before = [] if "--config" in args else usual.split()
    refused(["evaluate", *before, *args], expected, capsys)


@pytest.mark.parametrize(
    ("args", "expected"), PREPARE, ids=lambda x: words(x) if isinstance(x, list) else ""
)
def test_prep_data_refuses(args, expected, files, capsys):
    Path("bad.jsonl").write_text('{"messages": [}\n')
    Path("latin.jsonl").write_bytes(b'{"messages": "caf\xe9"}\n')
    turn = {"role": "user", "content": "hi"}
    Path("shape.jsonl").write_text(json.dumps({"messages": [turn], "images": 7}))
    Path("null.jsonl").write_text(json.dumps({"messages": [turn | {"content": None}]}))
    Path("precious").mkdir(exist_ok=True)
    Path("precious/manifest.json").write_text('{"name": "something else"}')
    Path("precious/thesis.tex").write_text("years of work")
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
    del plain["fingerprint"]
    (model / "vocab.json").write_text(json.dumps(plain))
    args = ["generate", "--task", "t2i", "--text", "x", "--model", str(model)]
    refused(args, "vocab span 'image' has 65 codes", capsys)


DAMAGES = [
    ("config.json", b"{", "config.json' is not JSON"),
    ("config.json", b"[]", "holds a JSON list, not an object"),
    ("config.json", b'{"class_path": "os.system"}', "refused to build 'os.system'"),
    ("model.safetensors", b"garbage", "is damaged"),
    ("vocab.json", b"{}", "describes no vocabulary"),
    ("vocab.json", b"\xff", "vocab.json' is not JSON"),
    (
        "vocab.json",
        b'{"text_size": 1024, "spans": {"speech": 1}, "fingerprint": "x"}',
        "fingerprint",
    ),
    ("lengths.json", b'{"t2i/0": 3}', "holds no rules of ratio and base"),
    ("text.tiktoken", b"one two three", "holds no text ranks"),
    ("image_tokenizer/model.safetensors", b"", "is damaged"),
]


@pytest.mark.parametrize(("name", "content", "expected"), DAMAGES)
def test_a_damaged_model_is_refused(name, content, expected, files, capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree("runs/debug/stage3/export", model)
    (model / name).write_bytes(content)
    for args in (["generate", "--task", "tqa", "--text", "x"], ["shrink", "--out", "small"]):
        refused([*args, "--model", str(model)], expected, capsys)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["shrink", "--model", "runs/debug/stage3/export", "--out", "good.png"], "cannot write"),
        (["report", "--run", "runs/debug", "--out", "folder.txt"], "'folder.txt' is a folder"),
        (["report", "--run", "gone"], "gone"),
        (["bench", "--suite", "train", "--repeats", "0"], "repeats is 0"),
        (["bench", "--suite", "train", "--out", "good.png/x"], "cannot write into"),
        (["predict", "--config", STAGE], "unknown verb 'predict'"),
        (["test", "--config", STAGE], "give --ckpt_path"),
    ],
    ids=lambda x: words(x) if isinstance(x, list) else "",
)
def test_other_verbs_refuse(args, expected, files, capsys):
    refused(args, expected, capsys)


def test_building_data_leaves_other_folders_alone(files, capsys):
    Path("mine").mkdir()
    for name in ("manifest.json", "thesis.tex"):
        Path("mine", name).write_text("{}")
    refused(["prep-data", "--preset", "smoke", "--out", "mine"], "contains 'thesis.tex'", capsys)
    assert Path("mine/thesis.tex").read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "expected"), [(b"[]", "a JSON list"), (b"\xff", "is not JSON")]
)
def test_a_damaged_manifest_is_named(content, expected, files, capsys, tmp_path):
    (tmp_path / "manifest.json").write_bytes(content)
    refused(["fit", "--config", IMAGE_RECIPE, "--data.data", str(tmp_path)], expected, capsys)


def test_shards_without_media_or_samples_are_named(files, capsys, tmp_path):
    for kind, recipe in (("image", IMAGE_RECIPE), ("speech", SPEECH_RECIPE)):
        data = tmp_path / kind
        shutil.copytree("data/smoke", data, ignore=shutil.ignore_patterns("codes"))
        manifest = json.loads((data / "manifest.json").read_text())
        del manifest["checksum"]
        for entry in manifest["shards"]:  # with counts alone, as a manifest by hand may be
            del entry["bytes"], entry["sha256"]
        (data / "manifest.json").write_text(json.dumps(manifest))
        shard = next((data / "media").glob(f"{kind}-train-*.tar"))
        with tarfile.open(shard) as tar:
            keys = {name.partition(".")[0] for name in tar.getnames()}
        shard.with_name(f"{shard.name}.idx").unlink()  # of the shard's former contents
        for number, named in (1, f"1 of {len(keys)} samples"), (len(keys), "no medium for key '"):
            with tarfile.open(shard, "w") as tar:
                for n in range(number):
                    tar.addfile(tarfile.TarInfo(f"{n}.json"), io.BytesIO())
            refused(["fit", "--config", recipe, "--data.data", str(data)], named, capsys)


def test_a_folder_of_a_sharded_run_needs_the_strategy_that_reads_it(tmp_path, capsys):
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / ".metadata").touch()
    (tmp_path / "last.ckpt" / "meta.pt").touch()
    args = ["fit", "--config", STAGE, "--ckpt_path", str(tmp_path / "last.ckpt")]
    assert main(args) == 2
    assert "recipes/strategy/fsdp2.yaml" in capsys.readouterr().err
