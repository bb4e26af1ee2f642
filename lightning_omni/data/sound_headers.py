"""What the headers of sound files say of their length, and whether that is true.

A program that writes to a pipe cannot go back to note the length, and leaves 0 or a number that is
too large. A file whose copy was interrupted has less sound than its header says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_UNKNOWN = 0x7F00_0000  # lengths from here on stand for "until the end" in a WAV of a pipe
_FLAC_TOTAL = 0xF_FFFF_FFFF  # 36 bits of STREAMINFO
_FLAC_FACTS = 18  # first byte of sampling rate, channels, bits and total in STREAMINFO
_MP3_TAGS = (b"Xing", b"Info")  # their count of frames is true; without them it is estimated
_MP3_HEAD = 1 << 14
_MAX_MISSING = 0.01
_MAX_CHUNKS = 10_000  # a file of empty chunks takes seconds


def complete_header(raw: bytes, *, seconds: float) -> bytes:
    """Return a FLAC or WAV file whose header leaves the length open with one that can be read.

    Args:
        raw: The file.
        seconds: Length to note in a FLAC file, which may hold less.
    """
    if raw[:4] == b"fLaC" and len(raw) >= _FLAC_FACTS + 8:
        (facts,) = struct.unpack_from(">Q", raw, _FLAC_FACTS)
        if facts & _FLAC_TOTAL:
            return raw
        total = min(int(seconds * (facts >> 44)), _FLAC_TOTAL)
        return raw[:_FLAC_FACTS] + struct.pack(">Q", facts | total) + raw[_FLAC_FACTS + 8 :]
    if raw[:4] == b"RIFF":
        for name, start, size in _iter_chunks(raw):
            if name == b"data" and size == 0 and start < len(raw):
                return raw[: start - 4] + struct.pack("<I", len(raw) - start) + raw[start:]
    return raw


def missing_share(raw: bytes, frames: int, read: int) -> float:
    """Return the share of the sound that the header promises and the file lacks; 0 if it is small.

    Args:
        raw: The file.
        frames: Frames that the header promises.
        read: Frames that were read to the end of the file.
    """
    share = 0.0
    if raw[:4] in (b"RIFF", b"FORM"):
        for name, start, size in _iter_chunks(raw):
            if name in (b"data", b"SSND") and 0 < size < _UNKNOWN:
                share = 1 - (len(raw) - start) / size
    elif frames and any(tag in raw[:_MP3_HEAD] for tag in _MP3_TAGS):
        share = 1 - read / frames
    return share if share > _MAX_MISSING else 0.0


def _iter_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte of the content and stated size of each chunk of a RIFF or IFF file."""
    order, at = "<I" if raw[:4] == b"RIFF" else ">I", 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(raw):
            return
        (size,) = struct.unpack_from(order, raw, at + 4)
        yield raw[at : at + 4], at + 8, size
        at += 8 + size + size % 2
