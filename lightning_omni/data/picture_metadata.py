"""Metadata of pictures: which way is up is read, the rest must not stand in the way."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from PIL import ExifTags, Image

_PNG = b"\x89PNG\r\n\x1a\n"
_UNREAD = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"  # may hold the orientation
_MAX_XMP = 1 << 16
_MAX_CHUNKS = 100_000  # a file of empty chunks takes seconds
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright, by its EXIF orientation."""


def without_png_text(raw: bytes) -> bytes:
    """Return a PNG without its texts and colour profile, which Pillow refuses where they are large.

    Other files are returned as they are.
    """
    if raw[:8] != _PNG:
        return raw
    chunks = list(islice(_iter_png_chunks(raw), _MAX_CHUNKS))
    if len(chunks) == _MAX_CHUNKS:
        return raw
    kept = [(start, end) for kind, start, end in chunks if not _is_unread(raw, kind, start, end)]
    if len(kept) == len(chunks):
        return raw
    return _PNG + b"".join(raw[start:end] for start, end in kept)


def turn_upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF orientation says; unturned if that cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (ValueError, TypeError, SyntaxError, OSError, struct.error, ArithmeticError, KeyError):
        return image  # what cameras and editors write there is often no EXIF
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _iter_png_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first byte and end of each chunk; what is no whole chunk belongs to the last."""
    at = len(_PNG)
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        end = at + 12 + size
        yield raw[at + 4 : at + 8], at, min(end, len(raw))
        at = end


def _is_unread(raw: bytes, kind: bytes, start: int, end: int) -> bool:
    is_xmp = raw.startswith(_XMP, start + 8) and end - start <= _MAX_XMP
    return kind in _UNREAD and not is_xmp
