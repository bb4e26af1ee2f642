"""Files that ask for too much memory or time, or try to run code or to leave their folder."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from fault import Outcome
from PIL import Image
from tar_files import write_tar

from data_prep.__main__ import main as prep_data
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.corpora.entries import CaptionedImage, ContentPart, Conversation
from data_prep.corpora.text_files import read_text
from lightning_omni import cli
from lightning_omni.data.manifest import MANIFEST, read_manifest, read_shard_list
from lightning_omni.data.media import read_audio, read_image
from lightning_omni.data.shard_checks import check_prepared_shards
from lightning_omni.data.shard_index import build_index
from lightning_omni.data.shards import parse_sample, read_shard
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError
from lightning_omni.files import parse_json_object
from lightning_omni.recipe import read_recipe, read_yaml

RECIPES = Path(__file__).parents[2] / "recipes" / "debug"
Make = Callable[[Path], Callable[[], Any]]


def _picture(mode: str, size: tuple[int, int], form: str = "PNG", **options: Any) -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        Image.new(mode, size).save(folder / "x", form, **options)
        return partial(read_image, folder / "x")

    return make


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _png(width: int, height: int, depth: int, colour: int) -> Make:
    """A PNG of a few bytes whose header states a size."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head)
    raw += _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")
    return lambda folder: partial(read_image, raw)


def _jpeg(width: int, height: int) -> Make:
    """A JPEG whose header states another size."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    raw = bytearray(buffer.getvalue())
    struct.pack_into(">HH", raw, raw.index(b"\xff\xc0") + 5, height, width)
    return lambda folder: partial(read_image, bytes(raw))


def _wave(channels: int, rate: int, frames: int, subtype: str = "PCM_U8") -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        with soundfile.SoundFile(folder / "x.wav", "w", rate, channels, subtype=subtype) as sound:
            for start in range(0, frames, 10_000):
                sound.write(np.zeros((min(10_000, frames - start), channels), np.float32))
        return partial(read_audio, folder / "x.wav", sample_rate=16_000)

    return make


def _header(rate: int, channels: int, size: int, kind: int = 1, bits: int = 16) -> Make:
    """A WAV of a few bytes whose header states another length."""
    block = channels * bits // 8 % 65536
    facts = struct.pack("<HHIIHH", kind, channels, rate, rate * block % 2**32, block, bits)
    raw = (
        b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + b"WAVEfmt " + struct.pack("<I", 16)
    )
    raw += facts + b"data" + struct.pack("<I", size) + bytes(1000)
    return lambda folder: partial(read_audio, raw, sample_rate=16_000)


def _floats(*values: float, rate: int = 8000) -> Make:
    """A WAV of floats that are no sound."""
    buffer = io.BytesIO()
    wave = np.resize(np.array(values, np.float32), rate)
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return lambda folder: partial(read_audio, buffer.getvalue(), sample_rate=16_000)


def _flac(rate: int, channels: int, seconds: int) -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        with soundfile.SoundFile(folder / "x.flac", "w", rate, channels) as sound:
            for _ in range(seconds):
                sound.write(np.zeros((rate, channels), np.int16))
        return partial(read_audio, folder / "x.flac", sample_rate=16_000)

    return make


def _sparse(read: Callable[[Path], Any], size: int = 3 << 30) -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        with (folder / "sparse").open("wb") as file:
            file.truncate(size)
        return partial(read, folder / "sparse")

    return make


def _pipe(read: Callable[[Path], Any]) -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        os.mkfifo(folder / "pipe")
        return partial(read, folder / "pipe")

    return make


def _device(read: Callable[[Path], Any], path: str = "/dev/zero") -> Make:
    return lambda folder: partial(read, Path(path))


def _socket(folder: Path) -> Callable[[], Any]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "s"))
    return partial(read_image, folder / "s")


def _sound(path: Path) -> Any:
    return read_audio(path, sample_rate=16_000)


def _corpus(path: Path) -> Any:
    """Add a picture to a corpus, whose builder tells of what it leaves out."""
    builder = CorpusBuilder("x", "train")
    builder.add_entries([CaptionedImage("x:1", path, "words")])
    if builder.tally.bad:
        raise OmniError(builder.tally.left_out[0])
    return builder


def _long_text(folder: Path) -> Callable[[], Any]:
    turns = tuple(
        (role, (ContentPart("text", "x" * 60_000_000),)) for role in ("user", "assistant")
    )

    def add() -> Any:
        builder = CorpusBuilder("x", "train")
        builder.add_entries([Conversation("x:1", "tqa", turns)])
        if builder.tally.bad:
            raise OmniError(builder.tally.left_out[0])
        return builder

    return add


def _deep_sample(folder: Path) -> Callable[[], Any]:
    return partial(parse_sample, "k", {"json": b"[" * 100_000}, folder / "x.tar")


def _large_sample(folder: Path) -> Callable[[], Any]:
    return partial(parse_sample, "k", {"json": b" " * 60_000_000}, folder / "x.tar")


def _deep_line(folder: Path) -> Callable[[], Any]:
    return partial(parse_json_object, b'{"a":' * 100_000, name="x:1")


def _deep_manifest(folder: Path) -> Callable[[], Any]:
    (folder / MANIFEST).write_text("[" * 100_000)
    return partial(read_manifest, folder)


def _yaml(text: str) -> Make:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / "x.yaml").write_text(text)
        return partial(read_recipe, folder / "x.yaml")

    return make


def _alias_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines)


def _huge_member(folder: Path) -> Callable[[], Any]:
    header = tarfile.TarInfo("k.json")
    header.size = 8 << 30
    (folder / "x-train-000000.tar").write_bytes(header.tobuf() + bytes(2048))
    return partial(build_index, folder / "x-train-000000.tar")


HOSTILE: tuple[tuple[str, Make], ...] = (
    ("16-bit grey of 40 megapixels", _picture("I;16", (6324, 6324))),
    ("RGBA of 40 megapixels", _picture("RGBA", (6324, 6324), compress_level=1)),
    ("grey with alpha of 36 megapixels", _picture("LA", (6000, 6000), compress_level=1)),
    ("WebP of 36 megapixels", _picture("RGB", (6000, 6000), "WEBP", quality=0, method=0)),
    ("RGB of 49 megapixels", _picture("RGB", (7000, 7000), compress_level=1)),
    ("one bit, 400 megapixels", _picture("1", (20_000, 20_000))),
    ("palette of 64 megapixels", _picture("P", (8000, 8000))),
    ("JPEG of 49 megapixels", _picture("L", (7000, 7000), "JPEG")),
    ("CMYK of 30 megapixels", _picture("CMYK", (5500, 5500), "JPEG")),
    ("PNG that states 30,000 x 30,000", _png(30_000, 30_000, 8, 2)),
    ("PNG that states 2^31 - 1 columns", _png(2**31 - 1, 1, 8, 2)),
    ("PNG that states 16-bit RGBA of 39 megapixels", _png(6300, 6300, 16, 6)),
    ("JPEG that states 65,500 x 65,500", _jpeg(65_500, 65_500)),
    ("800 channels", _wave(800, 8000, 60_000)),
    ("1,000 channels, 59 s", _wave(1000, 4000, 90_000)),
    ("8 channels of 655 kHz, FLAC", _flac(655_350, 8, 6)),
    ("an hour", _wave(1, 8000, 8000 * 3600)),
    ("WAV that states 4 GB", _header(16_000, 1, 2**32 - 2)),
    ("WAV of 2^31 - 1 Hz", _header(2**31 - 1, 1, 1000)),
    ("WAV of 65,535 channels", _header(16_000, 65_535, 2**31)),
    ("amplitude 1e38", _floats(1e38, -1e38)),
    ("amplitude 3e38, alternating", _floats(3e38, -3e38, 3e38)),
    ("amplitude 1e38 at 44.1 kHz", _floats(1e38, 0.0, rate=44_100)),
    ("NaN", _floats(0.1, float("nan"))),
    ("infinite", _floats(0.1, float("inf"))),
    ("a pipe as picture", _pipe(read_image)),
    ("a pipe as sound", _pipe(_sound)),
    ("a pipe as recipe", _pipe(read_yaml)),
    ("a pipe as a corpus's picture", _pipe(_corpus)),
    ("/dev/zero as picture", _device(read_image)),
    ("/dev/zero as sound", _device(_sound)),
    ("/dev/zero as a text", _device(read_text)),
    ("/dev/urandom as a corpus's picture", _device(_corpus, "/dev/urandom")),
    ("3 GB as picture", _sparse(read_image)),
    ("3 GB as sound", _sparse(_sound)),
    ("3 GB as recipe", _sparse(read_yaml)),
    ("3 GB as text", _sparse(read_text)),
    ("a socket as picture", _socket),
    ("JSON of 100,000 levels as sample", _deep_sample),
    ("JSON of 60 MB as sample", _large_sample),
    ("JSON of 100,000 levels as line", _deep_line),
    ("JSON of 100,000 levels as manifest", _deep_manifest),
    ("a text of 60 MB", _long_text),
    ("YAML of nested aliases", _yaml(_alias_bomb())),
    ("YAML of 100,000 levels", _yaml("[" * 100_000)),
    ("a tar member that states 8 GB", _huge_member),
)


class _Touch:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


Attack = Callable[[Path, Path], Any]


def _in_shard(name: str, load: Callable[[Path], Any]) -> Attack:
    def attack(folder: Path, canary: Path) -> Any:
        content = pickle.dumps(_Touch(canary))
        return load(write_tar(folder / "tqa-train-000000.tar", [(name, content)]))

    return attack


def _stream(path: Path) -> Any:
    return [parse_sample(key, files, path) for key, files in read_shard(path)]


def _npy(folder: Path, canary: Path) -> Any:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Touch(canary)], dtype=object), allow_pickle=True)
    sample = b'{"task": "tqa", "turns": [{"role": "user", "parts": [{"speech": [1]}]}]}'
    files = [("k.json", sample), ("k.0.npy", buffer.getvalue())]
    return _stream(write_tar(folder / "tqa-train-000000.tar", files))


def _command(*args: str) -> Attack:
    """Run a command in which CANARY and FOLDER stand for paths."""

    def attack(folder: Path, canary: Path) -> Any:
        given = [a.replace("CANARY", str(canary)).replace("FOLDER", str(folder)) for a in args]
        code = cli.main(given)
        if code != 2:
            raise AssertionError(f"code {code}")
        raise OmniError("refused")

    return attack


def _checkpoint(*more: str) -> Attack:
    def attack(folder: Path, canary: Path) -> Any:
        torch.save({"state_dict": _Touch(canary)}, folder / "evil.ckpt")
        recipe = str(RECIPES / "image_tokenizer.yaml")
        return _command("validate", "--config", recipe, "--ckpt_path", "FOLDER/evil.ckpt", *more)(
            folder, canary
        )

    return attack


def _recipe(text: str, read: Callable[[Path], Any] = read_recipe) -> Attack:
    def attack(folder: Path, canary: Path) -> Any:
        (folder / "x.yaml").write_text(text.replace("CANARY", str(canary)))
        return read(folder / "x.yaml")

    return attack


def _fit(text: str) -> Attack:
    return _recipe(text, lambda path: _command("fit", "--config", str(path))(path.parent, path))


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Attack:
    """Read a tar with a member of this name or kind, as a corpus and as a shard."""

    def attack(folder: Path, canary: Path) -> Any:
        header = tarfile.TarInfo(name.replace("CANARY", str(canary)))
        header.type, header.linkname = kind, link.replace("CANARY", str(canary))
        path = folder / "tqa-train-000000.tar"
        with tarfile.open(path, "w") as tar:
            tar.addfile(header, io.BytesIO(b""))
        prep_data(["--corpus", "img2dataset", "--source", str(path), "--out", str(folder / "out")])
        return _stream(path)

    return attack


def _listed(name: str) -> Attack:
    def attack(folder: Path, canary: Path) -> Any:
        entry = f'{{"path": "{name}", "samples": 1}}'.replace("CANARY", str(canary))
        (folder / MANIFEST).write_text(f'{{"shards": [{entry}]}}')
        check_prepared_shards(folder)
        return read_shard_list(folder / "tasks")

    return attack


def _location(source: str) -> Attack:
    def attack(folder: Path, canary: Path) -> Any:
        return read_manifest(parse_location(source.replace("CANARY", str(canary))))

    return attack


def _model(folder: Path, canary: Path) -> Any:
    """A model whose weights are a pickle."""
    (folder / "m").mkdir()
    (folder / "m/config.json").write_text('{"class_path": "os.system", "init_args": {}}')
    (folder / "m/model.safetensors").write_bytes(pickle.dumps(_Touch(canary)))
    text = ["--task", "t2i", "--text", "x", "--out", str(folder / "o")]
    return _command("generate", "--model", "FOLDER/m", *text)(folder, canary)


def _import(folder: Path, canary: Path) -> Any:
    (folder / "m").mkdir()
    torch.save({"x": _Touch(canary)}, folder / "m/pytorch_model.bin")
    (folder / "m/config.json").write_text('{"model_type": "qwen2"}')
    more = ("--kind", "qwen2", "--input", "FOLDER/m", "--output", "FOLDER/o")
    return _command("import", *more)(folder, canary)


_POPEN = "{class_path: subprocess.Popen, init_args: {args: [touch, CANARY]}}"
CANARIES: tuple[tuple[str, Attack], ...] = (
    ("pickle as .pyd in a shard", _in_shard("k.pyd", _stream)),
    ("pickle as .pickle in a shard", _in_shard("k.pickle", _stream)),
    ("pickle as .pth in a shard", _in_shard("k.pth", _stream)),
    ("pickle as .json in a shard", _in_shard("k.json", _stream)),
    ("pickle as .npy in a shard", _in_shard("k.0.npy", _stream)),
    ("array of objects in a shard", _npy),
    ("pickle as checkpoint", _checkpoint()),
    ("pickle as checkpoint, weights_only false", _checkpoint("--weights_only", "false")),
    ("pickle as model", _model),
    ("pickle in a folder to import", _import),
    ("YAML tag apply", _recipe('a: !!python/object/apply:os.system ["touch CANARY"]')),
    ("YAML tag new", _recipe("a: !!python/object/new:os.system [touch CANARY]")),
    ("YAML tag name", _recipe("a: !!python/name:os.system ''")),
    ("YAML tag module", _recipe("a: !!python/module:os ''")),
    ("Popen as data", _fit(f"data: {_POPEN}")),
    ("Popen as model", _fit(f"model: {_POPEN}")),
    ("Popen as callback", _fit(f"trainer: {{callbacks: [{_POPEN}]}}")),
    ("os.system as optimizer", _fit(f"model: {{optimizer: {_POPEN}}}")),
    ("pipe: as data", _location("pipe:touch CANARY")),
    ("pipe: with slashes as data", _location("pipe://touch CANARY")),
    ("braces as data", _location("{pipe:touch CANARY,x}")),
    ("pipe: as source", _command(
        "prep-data", "--corpus", "img2dataset", "--source", "pipe:touch CANARY", "--out", "FOLDER/o"
    )),
    ("key with ..", _member("../../CANARY.json")),
    ("absolute key", _member("CANARY.json")),
    ("symbolic link out of the folder", _member("k.jpg", tarfile.SYMTYPE, "CANARY")),
    ("hard link out of the folder", _member("k.jpg", tarfile.LNKTYPE, "CANARY")),
    ("device in a tar", _member("k.jpg", tarfile.CHRTYPE)),
    ("listed path with ..", _listed("tasks/../../CANARY.tar")),
    ("listed absolute path", _listed("CANARY.tar")),
    ("pipe: in a list", _listed("pipe:touch CANARY")),
)  # fmt: skip


def run_canary(number: int, folder: Path) -> Iterator[Outcome]:
    """Try one of the attacks; the canary must not be there, and its folder holds nothing else."""
    name, attack = CANARIES[number]
    nest, work = folder / "nest", folder / "work"
    nest.mkdir()
    work.mkdir()
    canary = nest / "canary"
    try:
        attack(work, canary)
        what = "harmless"
    except OmniError:
        what = "refused"
    except Exception as error:  # noqa: BLE001  that none comes is what is tested
        yield Outcome(False, f"raw {type(error).__name__}", f"{name}: {error!r}")
        return
    if list(nest.iterdir()):
        yield Outcome(False, "the canary was touched", name)
        return
    yield Outcome(True, what, name)
