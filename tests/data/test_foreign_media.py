"""Pictures and sound as other people's programs write them: odd headers, scales and metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from lightning_omni.data.media import read_audio, read_image
from lightning_omni.errors import OmniError

RATE = 16_000
TONE = np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE) / 2


def sound(wave=TONE, *, kind="WAV", subtype="PCM_16", rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def hear(raw):
    return read_audio(raw, sample_rate=RATE, name="x")


def with_data_size(raw, size):
    return raw[:40] + struct.pack("<I", size) + raw[44:]


def without_length(flac):
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(size):
    assert np.array_equal(hear(with_data_size(sound(), size)), hear(sound()))


def test_a_flac_written_to_a_pipe_is_read_to_its_end_and_judged_by_it():
    assert np.array_equal(hear(without_length(sound(kind="FLAC"))), hear(sound(kind="FLAC")))
    with pytest.raises(OmniError, match=r"lasts 60\.\d s, at most 60 s"):
        hear(without_length(sound(np.tile(TONE, 62), kind="FLAC")))


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("MP3", "MPEG_LAYER_III")]
)
def test_a_recording_that_was_cut_is_refused(kind, subtype):
    raw = sound(np.tile(TONE, 3), kind=kind, subtype=subtype)
    assert len(hear(raw)) == 3 * RATE
    with pytest.raises(OmniError, match=r"is cut: \d\d% of its sound is missing"):
        hear(raw[: len(raw) // 2])


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("AU", "ULAW"),
        ("CAF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("NIST", "PCM_16"),
        ("OGG", "OPUS"),
        ("OGG", "VORBIS"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
    ],
)
@pytest.mark.parametrize("share", [0.97, 0.6, 0.3])
def test_sound_of_each_format_that_states_its_length_is_refused_if_cut(kind, subtype, share):
    raw = sound(np.tile(TONE, 3), kind=kind, subtype=subtype)
    assert len(hear(raw)) == 3 * RATE
    assert len(hear(raw + b"TAG" + bytes(125))) - 3 * RATE in (0, 64)  # some read it as sound
    with pytest.raises(OmniError, match=r"is cut: |is not readable audio|lasts 0\.000 s"):
        hear(raw[: int(len(raw) * share)])


@pytest.mark.parametrize("kind", ["SVX", "VOC", "IRCAM", "PAF", "MAT5", "AVR"])
def test_sound_of_formats_that_do_not_tell_of_a_cut_is_refused_by_name(kind):
    with pytest.raises(OmniError, match=rf"'x' is {kind}, which is not read; give WAV"):
        hear(sound(kind=kind))


@pytest.mark.parametrize(("kind", "at"), [("AU", 8), ("CAF", None)])
def test_a_length_that_is_left_open_is_not_missed(kind, at):
    raw = bytearray(sound(kind=kind))
    at = at or raw.index(b"data") + 4
    raw[at : at + (4 if kind == "AU" else 8)] = b"\xff" * (4 if kind == "AU" else 8)
    assert len(hear(bytes(raw))) == RATE


def test_an_ogg_stream_that_stops_between_pages_is_taken():
    raw = sound(np.tile(TONE, 3), kind="OGG", subtype="OPUS")
    last = raw.rindex(b"OggS")
    assert RATE < len(hear(raw[:last])) < 3 * RATE
    for cut in range(last + 1, last + 40):
        with pytest.raises(OmniError, match="its last part is not whole"):
            hear(raw[:cut])


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_float_sound_beyond_1_is_clipped_and_on_the_scale_of_integers_refused(rate):
    assert np.abs(hear(sound(TONE * 3, subtype="FLOAT", rate=rate))).max() <= 1
    for peak in (128, 20_000, 1e38):
        with pytest.raises(OmniError, match="wanted samples from -1 to 1"):
            hear(sound(TONE * peak, subtype="DOUBLE", rate=rate))


def test_channels_that_cancel_each_other_are_refused_and_one_silent_channel_is_not():
    with pytest.raises(OmniError, match="cancel each other"):
        hear(sound(np.stack([TONE, -TONE], 1)))
    assert np.abs(hear(sound(np.stack([TONE, 0 * TONE], 1)))).max() > 0.2
    assert not hear(sound(np.stack([0 * TONE, 0 * TONE], 1))).any()


def picture(kind="PNG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def exif(*entries):
    """EXIF of `(tag, type, count, value)`, as a camera might have left it."""
    out, extra = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        place = struct.pack("<I", 8 + 2 + 12 * len(entries) + 4 + len(extra))
        out += struct.pack("<HHI", tag, kind, count)
        out += value.ljust(4, b"\0") if len(value) <= 4 else place
        extra += value if len(value) > 4 else b""
    return out + bytes(4) + extra


TURNED = (0x112, 3, 1, struct.pack("<H", 6))
ODD_EXIF = [
    exif((0x112, 10, 1, struct.pack("<ii", -1, 0))),
    exif((0x112, 2, 4, b"six\0")),
    exif((0x112, 3, 1, struct.pack("<H", 9))),
    b"garbage",
    b"II*\0\x08\0\0\0\xff\xff",
]
ODD_EXIF_OF_TURNED = [
    exif(TURNED),
    exif(TURNED, (0x11A, 10, 1, struct.pack("<ii", -1, 0))),
    exif(TURNED, (0x11A, 2, 8, b"seventy\0")),
    exif(TURNED, (0x8769, 4, 1, struct.pack("<I", 10**6)), (0x8825, 2, 4, b"abc\0")),
]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_that_makes_no_sense_leaves_a_picture_unturned_and_beside_a_turn_does_no_harm(kind):
    for raw in ODD_EXIF:
        assert read_image(picture(kind, exif=b"Exif\0\0" + raw)).size == (6, 4)
    for raw in ODD_EXIF_OF_TURNED:
        assert read_image(picture(kind, exif=b"Exif\0\0" + raw)).size == (4, 6)


def chunk(kind, content):
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


TEXT = b"a" * 3_000_000
CHUNKS = {
    "profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(TEXT)),
    "damaged profile": chunk(b"iCCP", b"p\0\0nonsense"),
    "compressed text": chunk(b"zTXt", b"k\0\0" + zlib.compress(TEXT)),
    "international text": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(TEXT)),
    "much text": b"".join(chunk(b"tEXt", b"k%d\0" % i + TEXT) for i in range(30)),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_with_a_large_profile_or_text_is_taken(name):
    raw = picture()
    assert read_image(raw[:33] + CHUNKS[name] + raw[33:]).getpixel((0, 0)) == (255, 0, 0)


def test_the_xmp_of_a_png_still_says_which_way_is_up():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    raw = picture()
    turned = raw[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + raw[33:]
    assert read_image(turned).size == (4, 6)
