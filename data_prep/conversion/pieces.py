"""A corpus in pieces, of which one process converts one at a time.

A tar or Parquet file is a piece, or several if it is large: uncompressed tars on a disk are cut
between samples, Parquet files between row groups. Corpora that are lists of files are cut after so
many entries; their entries are cheap to pass over, since each is made when it is needed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType

from data_prep.corpora.entries import Entry
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.parquet import PARQUET_SUFFIXES, parquet_parts
from data_prep.corpora.source_files import source_files
from data_prep.corpora.tars import tar_parts
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

ENTRIES_PER_PIECE = 1000
BYTES_PER_PIECE = 256 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a corpus.

    Attributes:
        source: Source that it belongs to, as it was given.
        file: File of the source; None if the piece is a range of the source's entries.
        start: First entry of the range.
        size: Bytes of the file, or entries in the range.
        digest: Hash of the names of the entries in the range.
        part: Part of the file; None for all of it.
    """

    source: Location
    file: Location | None
    start: int
    size: int
    digest: str = ""
    part: FilePart | None = None

    @property
    def name(self) -> str:
        """The piece in words, without credentials."""
        if self.file is None:
            return f"{self.source}[{self.start}:]"
        return f"{self.file}[{self.part.start}:]" if self.part else str(self.file)

    @property
    def work_size(self) -> int:
        """Bytes or entries to read."""
        return self.part.size if self.part else self.size


def divide_into_pieces(
    layout: ModuleType, sources: Sequence[Location], *, split: str
) -> Iterator[Piece]:
    """Yield the pieces of a corpus in its order.

    Args:
        layout: Module that reads the layout.
        sources: Files, folders and URLs of the corpus.
        split: Split that is read.

    Raises:
        OmniError: If a source cannot be read.
    """
    for source in sources:
        if _is_read_by_file(layout, source):
            for file in source_files(source, layout.SUFFIXES):
                size = file.stat().st_size
                parts = _file_parts(layout, file)
                yield from (Piece(source, file, 0, size, part=part) for part in parts or (None,))
        else:
            yield from _divide_into_ranges(layout.read(source, split=split), source)


def _is_read_by_file(layout: ModuleType, source: Location) -> bool:
    suffixes = getattr(layout, "SUFFIXES", ())
    return bool(suffixes) and (source.name.lower().endswith(suffixes) or source.is_dir())


def _file_parts(layout: ModuleType, file: Location) -> list[FilePart]:
    """Return the parts of a file; none if it is small, or the layout does not read parts."""
    if "part" not in inspect.signature(layout.read).parameters:
        return []
    is_parquet = file.name.lower().endswith(PARQUET_SUFFIXES)
    return (parquet_parts if is_parquet else tar_parts)(file, BYTES_PER_PIECE)


def _divide_into_ranges(entries: Iterator[Entry], source: Location) -> Iterator[Piece]:
    start = 0
    while origins := [entry.origin for entry in islice(entries, ENTRIES_PER_PIECE)]:
        names = "\n".join(origins).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(names).hexdigest()[:12]
        yield Piece(source, None, start, len(origins), digest)
        start += len(origins)


@dataclass
class PieceReader:
    """Reads the entries of pieces; a range that follows the last one goes on from there.

    Attributes:
        layout: Module that reads the layout.
        split: Split that is read.
    """

    layout: ModuleType
    split: str
    _source: Location | None = None
    _entries: Iterator[Entry] = field(default_factory=lambda: iter(()))
    _next: int = 0

    def read_entries(self, piece: Piece) -> Iterator[Entry]:
        """Yield the entries of a piece.

        Raises:
            OmniError: If its file or its number of entries changed, or cannot be read.
        """
        if piece.file is not None:
            _check_piece_size(piece, piece.file.stat().st_size)
            is_given = piece.file == piece.source
            folder = piece.file.parent if is_given else piece.source
            part = {"part": piece.part} if piece.part else {}
            yield from self.layout.read(piece.file, split=self.split, folder=folder, **part)
            return
        if piece.source != self._source or piece.start < self._next:
            self._source, self._next = piece.source, 0
            self._entries = self.layout.read(piece.source, split=self.split)
        passed = piece.start - self._next
        self._next = piece.start + piece.size
        count = 0
        for entry in islice(self._entries, passed, passed + piece.size):
            count += 1
            yield entry
        _check_piece_size(piece, count)


def _check_piece_size(piece: Piece, found: int) -> None:
    if found != piece.size:
        name, unit = (piece.file, "bytes") if piece.file else (piece.name, "entries")
        raise OmniError(
            f"'{name}' has {found} {unit} but had {piece.size} when the build began: the "
            "corpus was changed; start the command again, which begins anew"
        )
