"""What the headers of sound files say of their length, and whether that is true.

A program that writes to a pipe cannot go back to note the length, and leaves 0 or a number that is
too large. A file whose copy was interrupted has less sound than its header says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

_UNKNOWN = 0x7F00_0000  # lengths from here on stand for "until the end" in a WAV of a pipe
_FLAC_TOTAL = 0xF_FFFF_FFFF  # 36 bits of STREAMINFO
_FLAC_FACTS = 18  # first byte of sampling rate, channels, bits and total in STREAMINFO
_MP3_TAGS = (b"Xing", b"Info")  # their count of frames is true; without them it is estimated
_MP3_HEAD = 1 << 14
_MAX_MISSING = 0.01
_MAX_CHUNKS = 10_000  # a file of empty chunks takes seconds
_OGG_HEAD, _AU_HEAD, _NIST_HEAD = 27, 24, 1024
_CAF, _W64 = (8, ">4sq"), (40, "<4s12xq")  # first chunk, and name and size of a chunk
_NIST_COUNT = re.compile(rb"\nsample_count -i (\d{1,15})")


def complete_header(raw: bytes, *, seconds: float) -> bytes:
    """Return a FLAC, WAV or CAF file whose header leaves the length open with one that can be read.

    Args:
        raw: The file.
        seconds: Length to note in a FLAC file, which may hold less.
    """
    if raw[:4] == b"fLaC":
        return _complete_flac(raw, seconds)
    if raw[:4] == b"RIFF":
        for name, start, size in _iter_chunks(raw):
            if name == b"data" and size == 0 and start < len(raw):
                return raw[: start - 4] + struct.pack("<I", len(raw) - start) + raw[start:]
    if raw[:4] == b"caff":
        for name, start, size in _iter_long_chunks(raw, *_CAF):
            if name == b"data" and size < 0:
                return raw[: start - 8] + struct.pack(">q", len(raw) - start) + raw[start:]
    return raw


def _complete_flac(raw: bytes, seconds: float) -> bytes:
    if len(raw) < _FLAC_FACTS + 8:
        return raw
    (facts,) = struct.unpack_from(">Q", raw, _FLAC_FACTS)
    if facts & _FLAC_TOTAL:
        return raw
    total = min(int(seconds * (facts >> 44)), _FLAC_TOTAL)
    return raw[:_FLAC_FACTS] + struct.pack(">Q", facts | total) + raw[_FLAC_FACTS + 8 :]


def missing_share(raw: bytes, frames: int, read: int) -> float:
    """Return the share of the sound that the header promises and the file lacks; 0 if it is small.

    Args:
        raw: The file.
        frames: Frames that the header promises; 0 if it leaves them open, as in a pipe.
        read: Frames that were read to the end of the file.
    """
    share = 0.0
    states_frames = raw[:4] == b"fLaC" or any(tag in raw[:_MP3_HEAD] for tag in _MP3_TAGS)
    if stated := _stated_bytes(raw):
        start, size = stated
        share = 1 - (len(raw) - start) / size
    elif raw[:7] == b"NIST_1A" and (count := _NIST_COUNT.search(raw[:_NIST_HEAD])):
        share = 1 - read / max(1, int(count[1]))
    elif frames and states_frames:
        share = 1 - read / frames
    return share if share > _MAX_MISSING else 0.0


def ends_within_page(raw: bytes) -> bool:
    """Whether an Ogg file (Opus, Vorbis, FLAC) ends within a page, so that it was cut."""
    at = 0
    for _ in range(_MAX_CHUNKS):
        if not (begins := raw[at : at + 4]) or not b"OggS".startswith(begins):
            return False  # the end, or what others write behind it
        at += _ogg_page_size(raw, at)
        if at > len(raw):
            return True
    return False


def _ogg_page_size(raw: bytes, at: int) -> int:
    """Return the bytes of a page: its head, the lengths of its parts, and the parts."""
    count = raw[at + _OGG_HEAD - 1] if len(raw) >= at + _OGG_HEAD else 0
    return _OGG_HEAD + count + sum(raw[at + _OGG_HEAD : at + _OGG_HEAD + count])


def _stated_bytes(raw: bytes) -> tuple[int, int] | None:
    """Return where the samples of a file begin and how many bytes it states; None if none."""
    kind = raw[:4]
    if kind in (b"RIFF", b"FORM", b"RF64"):
        return _stated_by_chunks(raw)
    if kind == b".snd" and len(raw) >= _AU_HEAD:
        start, size = struct.unpack_from(">II", raw, 4)
        return (start, size) if 0 < size < _UNKNOWN else None
    if kind in (b"caff", b"riff"):
        head, extra = (_CAF, 0) if kind == b"caff" else (_W64, struct.calcsize(_W64[1]))
        for name, start, size in _iter_long_chunks(raw, *head):
            if name == b"data":
                return (start, size - extra) if size > extra else None
    return None


def _stated_by_chunks(raw: bytes) -> tuple[int, int] | None:
    """Return the same of a RIFF, RF64 or IFF file."""
    long_size = 0
    for name, start, size in _iter_chunks(raw):
        if name == b"ds64" and len(raw) >= start + 16:
            (long_size,) = struct.unpack_from("<Q", raw, start + 8)
        elif name in (b"data", b"SSND"):
            stated = long_size if size >= _UNKNOWN else size
            return (start, stated) if stated else None
    return None


def _iter_long_chunks(raw: bytes, at: int, head: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte and stated size of each chunk of a CAF or Wave64 file.

    Sizes of Wave64 count the head, and its chunks begin at multiples of eight bytes. The chunks end
    where a size is left open.
    """
    length = struct.calcsize(head)
    for _ in range(_MAX_CHUNKS):
        if at + length > len(raw):
            return
        name, size = struct.unpack_from(head, raw, at)
        yield name, at + length, size
        if size <= 0:
            return
        at += -(-size // 8) * 8 if raw[:4] == b"riff" else length + size


def _iter_chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte of the content and stated size of each chunk of a RIFF or IFF file."""
    order, at = ">I" if raw[:4] == b"FORM" else "<I", 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(raw):
            return
        (size,) = struct.unpack_from(order, raw, at + 4)
        yield raw[at : at + 4], at + 8, size
        at += 8 + size + size % 2
