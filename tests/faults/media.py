"""Malformed and hostile media, text, archives and configuration files."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
from fault import Fault, Outcome
from hostile import CANARIES, HOSTILE, run_canary
from measured import Limits, run_within
from PIL import Image
from tar_files import write_tar

from data_prep.corpora.tars import tar_entries
from data_prep.corpora.text_files import read_text
from lightning_omni.data.manifest import MANIFEST, read_shard_list
from lightning_omni.data.media import MAX_SECONDS, MIN_SECONDS, read_audio, read_image
from lightning_omni.data.shard_index import build_index
from lightning_omni.data.shards import parse_sample, read_shard
from lightning_omni.data.template import Template
from lightning_omni.files import parse_json_object
from lightning_omni.recipe import read_recipe
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

RATE = 16_000
PER_CALL = 100
MALFORMED = Limits(seconds=1.0, megabytes=200)
REFUSED = Limits(seconds=0.2, megabytes=100)


def mutate(raw: bytes, rng: Random) -> bytes:
    """Change a file in one of the ways in which files break, or are broken on purpose."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if changed:
            at = rng.randrange(min(len(changed), rng.choice((64, 512, len(changed)))))
            rng.choice(_CHANGES)(changed, at, rng)
    return bytes(changed)


def _flip_bit(changed: bytearray, at: int, rng: Random) -> None:
    changed[at] ^= 1 << rng.randrange(8)


def _set_byte(changed: bytearray, at: int, rng: Random) -> None:
    changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))


def _set_number(changed: bytearray, at: int, rng: Random) -> None:
    number = rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)))
    changed[at : at + 4] = number.to_bytes(4, rng.choice(("big", "little")))


def _remove(changed: bytearray, at: int, rng: Random) -> None:
    del changed[at : at + rng.randrange(1, 64)]


def _insert(changed: bytearray, at: int, rng: Random) -> None:
    changed[at:at] = rng.randbytes(rng.randrange(1, 64))


def _repeat(changed: bytearray, at: int, rng: Random) -> None:
    start = rng.randrange(len(changed))
    changed[at:at] = changed[start : start + rng.randrange(1, 256)]


def _cut(changed: bytearray, at: int, rng: Random) -> None:
    del changed[rng.randrange(len(changed)) :]


_CHANGES = (_flip_bit, _set_byte, _set_number, _remove, _insert, _repeat, _cut)


def mend_png(raw: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of what they hold, so that more is decoded."""
    mended, at = bytearray(raw), 8
    while at + 12 <= len(mended):
        (size,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + size
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    return bytes(mended)


SOUND_FORMATS = (
    ("WAV", "PCM_16", 2e-4),
    ("WAV", "PCM_24", 1e-5),
    ("WAV", "FLOAT", 1e-6),
    ("WAV", "PCM_U8", 2e-2),
    ("WAV", "ULAW", 5e-2),
    ("FLAC", "PCM_16", 2e-4),
    ("OGG", "VORBIS", None),
    ("MP3", "MPEG_LAYER_III", None),
    ("AIFF", "PCM_16", 2e-4),
)


@cache
def sounds() -> list[tuple[bytes, np.ndarray, int, float | None]]:
    """Files with their samples, sampling rate and largest difference; None where it is lossy."""
    rng = np.random.default_rng(0)
    found = []
    for kind, subtype, difference in SOUND_FORMATS:
        for rate, channels, seconds in ((16_000, 1, 0.3), (16_000, 2, 0.2), (8_000, 1, 0.4)):
            wave = 0.5 * rng.standard_normal((int(rate * seconds), channels)).clip(-1.9, 1.9)
            buffer = io.BytesIO()
            soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
            found.append((buffer.getvalue(), wave.mean(1), rate, difference))
    return found


def is_sound(wave: Any) -> bool:
    """Tell whether a result is sound that a model may be given."""
    return bool(
        isinstance(wave, np.ndarray)
        and wave.dtype == np.float32
        and wave.ndim == 1
        and MIN_SECONDS * RATE - 2 <= len(wave) <= MAX_SECONDS * RATE + RATE
        and np.isfinite(wave).all()
        and np.abs(wave).max() <= 1
    )


def read_malformed_sound(number: int, folder: Path) -> Iterator[Outcome]:
    """Read sound files, a tenth of them whole."""
    for i in range(PER_CALL):
        rng = Random(f"sound-{number}-{i}")
        raw, wave, rate, difference = rng.choice(sounds())
        is_whole = i % 10 == 0
        is_right: Callable[[Any], bool] = is_sound
        if is_whole and difference is not None and rate == RATE:
            is_right = partial(_is_near, wave=wave, difference=difference)
        content = raw if is_whole else mutate(raw, rng)
        if i % 50 == 1:
            content = raw[:4] + rng.randbytes(rng.randrange(2000))
        call = partial(read_audio, content, sample_rate=RATE, name="sound")
        one = run_within(MALFORMED, call, is_right, f"call {number}, file {i}")
        if is_whole and one.what == "a sentence":
            one = Outcome(False, "a whole file refused", f"call {number}, file {i}")
        yield one


def _is_near(found: Any, wave: np.ndarray, difference: float) -> bool:
    return is_sound(found) and np.abs(found - wave[: len(found)]).max() <= difference


PICTURE_FORMATS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RGB", "PNG", {}),
    ("RGBA", "PNG", {}),
    ("L", "PNG", {}),
    ("I;16", "PNG", {}),
    ("P", "PNG", {}),
    ("1", "PNG", {}),
    ("RGB", "PNG", {"save_all": True, "frames": 3}),
    ("RGB", "JPEG", {}),
    ("L", "JPEG", {"progressive": True}),
    ("CMYK", "JPEG", {}),
    ("RGB", "WEBP", {"lossless": True}),
    ("RGBA", "WEBP", {}),
    ("RGB", "WEBP", {"save_all": True, "frames": 3}),
    ("P", "GIF", {}),
)


@cache
def pictures() -> list[tuple[bytes, np.ndarray | None]]:
    """Files with their pixels; None where they are lossy, or not read at all."""
    rng = np.random.default_rng(0)
    found = []
    for mode, form, options in PICTURE_FORMATS:
        for shape in ((24, 40), (65, 17)):
            picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
            if mode == "I;16":
                grey = rng.integers(0, 65536, shape).astype(np.uint16)
                image, pixels = Image.fromarray(grey), None
                pixels = np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, 2)
            else:
                image = picture.convert(mode)
                pixels = np.asarray(image.convert("RGB"))
            given = dict(options)
            if frames := given.pop("frames", 0):
                given["append_images"] = [image] * (frames - 1)
            buffer = io.BytesIO()
            image.save(buffer, form, **given)
            is_exact = form == "PNG" or options.get("lossless")
            found.append((buffer.getvalue(), pixels if is_exact else None))
    return found


def read_malformed_picture(number: int, folder: Path) -> Iterator[Outcome]:
    """Read pictures, a tenth of them whole."""
    for i in range(PER_CALL):
        rng = Random(f"picture-{number}-{i}")
        raw, pixels = rng.choice(pictures())
        is_whole = i % 10 == 0
        content = raw if is_whole else mutate(raw, rng)
        if not is_whole and content[:4] == b"\x89PNG" and rng.random() < 0.7:
            content = mend_png(content)
        is_right = partial(_is_picture, pixels=pixels if is_whole else None)
        call = partial(read_image, content, name="picture")
        one = run_within(MALFORMED, call, is_right, f"call {number}, file {i}")
        if is_whole and one.what == "a sentence" and raw[:3] != b"GIF":
            one = Outcome(False, "a whole file refused", f"call {number}, file {i}")
        yield one


def _is_picture(found: Any, pixels: np.ndarray | None) -> bool:
    if not isinstance(found, Image.Image) or found.mode != "RGB" or min(found.size) < 1:
        return False
    return pixels is None or np.array_equal(np.asarray(found), pixels)


@cache
def template() -> Template:
    """A template of small spans."""
    text = TextTokenizer()
    vocab = Vocab.from_sizes({"text": text.size, "speech": 64, "image": 64}, "native")
    return Template(vocab, text, image_columns=2, codebooks=1, max_tail_pads={})


SAMPLE = {
    "task": "svqa",
    "turns": [
        {"role": "user", "parts": [{"speech": [1, 2, 3]}, {"image": [1, 2, 3, 4]}]},
        {"role": "assistant", "parts": [{"text": "a grün cat"}, {"speech": [5, 6, 7]}]},
    ],
    "meta": {"question": "what?", "set": "x"},
}
LISTED = {
    "layout": 1,
    "shards": [
        {
            "path": f"tasks/vqa-train-00000{i}.tar",
            "kind": "vqa",
            "split": "train",
            "samples": 10 + i,
            "bytes": 10240,
            "sha256": "0123456789abcdef" * 4,
        }
        for i in range(3)
    ],
}
RECIPE = """base_value: &x {a: 1, b: [1e-3, 2]}
model:
  class_path: lightning_omni.modules.masked_diffusion.MaskedDiffusionModule
  init_args: {lr: 3e-4, other: *x}
data: {rows: 4}
"""


def change_json(value: Any, rng: Random) -> Any:
    """Return JSON in which one value at some depth is another."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != name}
        return {**value, name: change_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return [*value, *value[at:]]
        return [*value[:at], change_json(value[at], rng), *value[at + 1 :]]
    odd = (None, True, -1, 0, 1.5, 2**70, "", "x", "../../x", [], {}, [1], {"a": 1}, "\ud800")
    return rng.choice(odd)


def _render(content: bytes, folder: Path) -> Any:
    sample = parse_sample("k", {"json": content}, folder / "x.tar")
    return template().render(sample, rng=Random(0))


def _sample_text(folder: Path, rng: Random) -> Callable[[], Any]:
    return partial(_render, _text_of(SAMPLE, rng), folder)


def _text_of(value: Any, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return mutate(json.dumps(value).encode(), rng)
    return json.dumps(change_json(value, rng)).encode()


def _manifest_text(folder: Path, rng: Random) -> Callable[[], Any]:
    (folder / MANIFEST).write_bytes(_text_of(LISTED, rng))
    return partial(read_shard_list, folder / "tasks")


def _line_text(folder: Path, rng: Random) -> Callable[[], Any]:
    return partial(parse_json_object, _text_of(SAMPLE, rng), name="x.jsonl:1")


def _plain_text(folder: Path, rng: Random) -> Callable[[], Any]:
    (folder / "x.txt").write_bytes(mutate("ein Wörtchen, 文字\n".encode() * 5, rng))
    return partial(read_text, folder / "x.txt")


def _recipe_text(folder: Path, rng: Random) -> Callable[[], Any]:
    (folder / "x.yaml").write_bytes(mutate(RECIPE.encode(), rng))
    return partial(read_recipe, folder / "x.yaml")


def _tar(folder: Path, rng: Random) -> Path:
    files = [(f"k{i}.json", json.dumps(SAMPLE).encode()) for i in range(3)]
    path = write_tar(folder / "vqa-train-000000.tar", files)
    path.write_bytes(mutate(path.read_bytes(), rng))
    return path


def _stream_of_tar(folder: Path, rng: Random) -> Callable[[], Any]:
    path = _tar(folder, rng)
    return lambda: list(read_shard(path))


def _index_of_tar(folder: Path, rng: Random) -> Callable[[], Any]:
    return partial(build_index, _tar(folder, rng))


def _corpus_of_tar(folder: Path, rng: Random) -> Callable[[], Any]:
    path = _tar(folder, rng)
    return lambda: list(tar_entries(path, lambda origin, files: origin))  # type: ignore[arg-type,return-value]


TEXTS = (
    _sample_text,
    _sample_text,
    _manifest_text,
    _line_text,
    _plain_text,
    _recipe_text,
    _stream_of_tar,
    _index_of_tar,
    _corpus_of_tar,
)


def read_malformed_text(number: int, folder: Path) -> Iterator[Outcome]:
    """Read samples, manifests, lines, texts, recipes and tars, none of them whole."""
    for i in range(PER_CALL):
        rng = Random(f"text-{number}-{i}")
        make = rng.choice(TEXTS)
        call = make(folder, rng)
        detail = f"call {number}, file {i}, {make.__name__}"
        # a manifest without a list is of an earlier version, which is said where it is opened
        is_right = _is_something if make is not _manifest_text else _is_list
        yield run_within(MALFORMED, call, is_right, detail)


def _is_something(result: Any) -> bool:
    return result is not None


def _is_list(result: Any) -> bool:
    return result is None or all(shard.samples >= 0 for shard in result.values())


def refuse_hostile(number: int, folder: Path) -> Iterator[Outcome]:
    """Read one of the files that ask for too much."""
    name, make = HOSTILE[number]
    call = make(folder)
    one = run_within(REFUSED, call, lambda result: False, name)
    yield Outcome(one.is_right, "refused" if one.is_right else one.what, one.detail)


FAULTS: tuple[Fault, ...] = (
    Fault("malformed sound", 20_000 // PER_CALL, read_malformed_sound),
    Fault("malformed pictures", 20_000 // PER_CALL, read_malformed_picture),
    Fault("malformed text, archives and recipes", 10_000 // PER_CALL, read_malformed_text),
    Fault("files that ask for too much", len(HOSTILE), refuse_hostile, fast_calls=5),
    Fault("code, commands and paths in data", len(CANARIES), run_canary, fast_calls=10),
)
