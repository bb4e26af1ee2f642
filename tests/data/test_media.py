import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from lightning_omni.data.media import center_crop_and_resize, read_audio, read_image
from lightning_omni.errors import OmniError


def as_file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_is_transparent_shows_a_white_ground():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    image = read_image(as_file(clear))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((3, 3)) == (255, 255, 255)
    palette = clear.quantize(4)
    assert read_image(as_file(palette)).getpixel((3, 3)) == (255, 255, 255)


def test_a_turned_photograph_is_put_upright():
    photo = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(as_file(photo, "JPEG", exif=exif)).size == (10, 20)


def test_sixteen_bit_greys_keep_their_brightness():
    grey = Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16))
    assert read_image(as_file(grey)).getpixel((0, 0)) == (100, 100, 100)


def test_the_central_square_is_cut_before_it_is_scaled():
    wide = Image.new("RGB", (1, 30_000), "red")
    assert center_crop_and_resize(wide, 64).size == (64, 64)
    stripes = Image.new("RGB", (30, 10), "blue")
    stripes.paste("red", (10, 0, 20, 10))
    assert center_crop_and_resize(stripes, 10).getcolors() == [(100, (255, 0, 0))]
    assert (
        center_crop_and_resize(center_crop_and_resize(stripes, 10), 10).tobytes()
        == center_crop_and_resize(stripes, 10).tobytes()
    )


def test_sound_of_any_format_becomes_mono_at_the_rate_asked_for(rng):
    wave = np.sin(np.arange(44_100) / 20)
    for rate, channels, subtype in (
        (44_100, 2, "PCM_U8"),
        (22_050, 1, "FLOAT"),
        (8000, 3, "PCM_24"),
    ):
        buffer = io.BytesIO()
        stereo = np.repeat(wave[:rate, None], channels, axis=1) * 0.5
        soundfile.write(buffer, stereo, rate, format="WAV", subtype=subtype)
        heard = read_audio(buffer.getvalue(), sample_rate=16_000)
        assert heard.dtype == np.float32
        assert abs(len(heard) - 16_000) <= 1
        assert 0.4 < np.abs(heard).max() < 0.6


@pytest.mark.parametrize("raw", [b"", b"RIFF", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(100)])
def test_a_file_that_is_neither_is_named_without_its_buffer(raw):
    for read in (read_image, lambda r, name: read_audio(r, sample_rate=16_000, name=name)):
        with pytest.raises(OmniError, match="'that file' is not") as error:
            read(raw, name="that file")
        assert "BytesIO" not in str(error.value)
