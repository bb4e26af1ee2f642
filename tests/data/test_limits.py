"""Limits are checked before memory is taken, and errors name the file."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from lightning_omni.data.media import MAX_SOUND_VALUES, read_audio, read_image, resample
from lightning_omni.data.shards import parse_sample
from lightning_omni.errors import OmniError
from lightning_omni.files import read_regular_file
from lightning_omni.recipe import read_yaml


def picture(mode, side, **options):
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "side", "form"),
    [("I;16", 6000, "PNG"), ("RGBA", 5000, "PNG"), ("RGB", 4500, "WEBP"), ("RGB", 6500, "PNG")],
)
def test_pictures_that_would_take_too_much_memory_are_refused(mode, side, form):
    content = picture(mode, side, format=form)
    with pytest.raises(OmniError, match=f"'big' has {side} x {side}"):
        read_image(content, name="big")


def test_greys_of_16_bits_and_transparency_are_flattened_as_a_whole():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 65536, (700, 40)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    found = np.asarray(read_image(buffer.getvalue()))[..., 0]
    assert np.array_equal(found, (grey / 257).round().astype(np.uint8))
    clear = Image.fromarray(rng.integers(0, 256, (700, 40, 4)).astype(np.uint8), "RGBA")
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    behind = Image.new("RGBA", clear.size, "white")
    wanted = np.asarray(Image.alpha_composite(behind, clear).convert("RGB"))
    assert np.array_equal(np.asarray(read_image(buffer.getvalue())), wanted)


def test_a_recording_of_too_many_channels_is_refused(tmp_path):
    path = tmp_path / "wide.wav"
    with soundfile.SoundFile(path, "w", 8000, 800, subtype="PCM_U8") as sound:
        sound.write(np.zeros((MAX_SOUND_VALUES // 800 + 1, 800), np.float32))
    with pytest.raises(OmniError, match=r"wide\.wav' has 30,001 frames of 800 channels"):
        read_audio(path, sample_rate=16_000)


def test_sound_is_clipped_before_it_is_resampled():
    wave = 5 * np.sin(np.arange(8000, dtype=np.float32))
    assert np.array_equal(resample(wave, 8000, 16_000), resample(wave.clip(-1, 1), 8000, 16_000))
    assert np.isfinite(resample(np.float32(1e38) * wave.clip(-1, 1), 8000, 16_000)).all()


@pytest.mark.parametrize("read", [read_image, lambda p: read_audio(p, sample_rate=16_000)])
def test_only_files_of_limited_size_are_read(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 << 30)
    for path, found in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        ("/dev/zero", "is a device"),
        (tmp_path / "sparse", "has 3,221.2 MB"),
    ):
        with pytest.raises(OmniError, match=found):
            read(type(tmp_path)(path))


def test_a_file_at_its_limit_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular_file(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(OmniError, match="at most"):
        read_regular_file(tmp_path / "x", limit=4)


def test_yaml_of_nested_aliases_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(OmniError, match=r"bomb\.yaml' stands for 4\S+ values"):
        read_yaml(path)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(OmniError, match="stands for inf values"):
        read_yaml(path)
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}
    path.write_text("[" * 100_000)
    with pytest.raises(OmniError, match="opens more than 1000 brackets"):
        read_yaml(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"task": "tqa", "turns": [{"role": "robot", "parts": []}]}',
        b'{"task": "tqa", "turns": [{"role": "user", "parts": [{"text": 7}]}]}',
        b'{"task": "tqa", "turns": [{"role": "user", "parts": [{"image": [1.5]}]}]}',
        b'{"task": "tqa", "turns": [{"role": "user", "parts": [{"image": [true]}]}]}',
        b'{"task": "zzz", "turns": []}',
        b'{"task": "tqa", "turns": [], "meta": []}',
        b" " * 16_000_001,
    ],
)
def test_a_malformed_sample_is_named_with_its_shard(content, tmp_path):
    with pytest.raises(OmniError, match=r"k9.*x\.tar"):
        parse_sample("k9", {"json": content}, tmp_path / "x.tar")


def test_integers_of_many_digits_are_refused(tmp_path):
    digits = b"9" * (sys.get_int_max_str_digits() + 1)
    content = b'{"task": "tqa", "turns": [{"role": "user", "parts": [{"image": [%b]}]}]}' % digits
    with pytest.raises(OmniError, match="malformed"):
        parse_sample("k9", {"json": content}, tmp_path / "x.tar")


def test_what_a_shell_hands_over_is_read():
    """As `--config <(command)` does, whose pipe is open already."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"model: 1")
    os.close(write_end)
    assert read_regular_file(Path(f"/dev/fd/{read_end}"), limit=100) == b"model: 1"
    os.close(read_end)
