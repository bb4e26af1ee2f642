"""A converted piece: its media and samples as they will lie in shards, and a row for each.

The file holds the items one behind the other, each with its tar headers; a line of kind, key and
bytes for each; the tally as JSON; and where these lines and the tally begin.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, NamedTuple

from data_prep.data_folder import stored_media_files, stored_sample_files
from data_prep.keys import check_key
from data_prep.media_file import MediaFile
from data_prep.samples import check_sample
from data_prep.shard_stream import tar_item
from data_prep.tally import Tally
from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

_END = struct.Struct("<qq8s")
_MAGIC = b"piece\0\0\1"
_RECENT = 1000


class PieceRow(NamedTuple):
    """An item of a piece.

    Attributes:
        kind: `media/MODALITY` or `tasks/TASK`.
        key: Its key.
        start: First byte in the file of the piece.
        size: Bytes.
    """

    kind: str
    key: str
    start: int
    size: int


class PieceWriter:
    """Writes media and samples as they come; those that come twice are told apart later.

    Args:
        file: File to write the items to.
        rows: File to write their rows to.
    """

    def __init__(self, file: IO[bytes], rows: IO[bytes]) -> None:
        self._file, self._rows = file, rows
        self._recent: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add_sample(self, split: str, sample: Sample, *media: MediaFile) -> None:
        """Add a sample with its media.

        Raises:
            OmniError: If the split or task is unknown, a key is malformed, or a medium is missing.
        """
        given = {(medium.modality, medium.key) for medium in media}
        check_sample(split, sample, lambda part: (part.modality, part.key) in given)
        for medium in media:
            check_key(medium.key)
            if not self._was_just_written(medium):
                files = tar_item(stored_media_files(medium))
                self._write_item(f"media/{medium.modality}", medium.key, files)
        self._write_item(f"tasks/{sample.task}", sample.key, tar_item(stored_sample_files(sample)))

    def write_rows_and_tally(self, tally: Tally) -> None:
        """Write the rows and the tally behind the items."""
        start = self._file.tell()
        self._rows.seek(0)
        shutil.copyfileobj(self._rows, self._file)
        end = self._file.tell()
        self._file.write(json.dumps(asdict(tally)).encode())
        self._file.write(_END.pack(start, end, _MAGIC))

    def _was_just_written(self, medium: MediaFile) -> bool:
        """Whether a medium was written shortly before, as with several questions about it."""
        name = medium.modality, medium.key
        if name in self._recent:
            return True
        self._recent[name] = None
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return False

    def _write_item(self, kind: str, key: str, item: bytes) -> None:
        self._file.write(item)
        self._rows.write(f"{kind} {key} {len(item)}\n".encode())


def read_rows(path: Path) -> Iterator[PieceRow]:
    """Yield the items of a piece in their order.

    Raises:
        OmniError: If the file is damaged.
    """
    with path.open("rb") as file:
        start, end = _read_footer(file, path)
        file.seek(start)
        at = 0
        while file.tell() < end:
            kind, key, size = file.readline().decode().split()
            yield PieceRow(kind, key, at, int(size))
            at += int(size)


def read_tally(path: Path) -> Tally:
    """Return what became of a piece's entries.

    Raises:
        OmniError: If the file is damaged.
    """
    with path.open("rb") as file:
        _, start = _read_footer(file, path)
        file.seek(start)
        return Tally(**json.loads(file.read()[: -_END.size]))


def _read_footer(file: IO[bytes], path: Path) -> tuple[int, int]:
    file.seek(0, 2)
    if file.tell() >= _END.size:
        file.seek(-_END.size, 2)
        start, end, magic = _END.unpack(file.read(_END.size))
        if magic == _MAGIC:
            return start, end
    raise OmniError(f"'{path}' is damaged; delete it and start the command again")
