"""Check before training that the longest samples fit into a row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

from lightning_omni.data.shard_index import parse_members, read_index
from lightning_omni.data.shards import parse_sample, shard_paths
from lightning_omni.data.storage.locations import Location, read_range
from lightning_omni.data.template import Template
from lightning_omni.data.transcripts import with_transcript
from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

_PER_TASK = 4


def check_longest_samples(
    folder: Location,
    tasks: Iterable[str],
    template: Template,
    *,
    row_length: int,
    transcribe_first: Iterable[str],
) -> None:
    """Render the training samples of most bytes of each task, and refuse one longer than a row.

    The indices of shards tell the bytes. Shards at URLs are left to the training stream, which
    refuses a sample when its turn comes.

    Raises:
        OmniError: If a sample is too long, naming it, its task and its text.
    """
    if not isinstance(folder, Path):
        return
    for task in tasks:
        for sample in _largest_samples(folder, task):
            whole = with_transcript(sample) if task in transcribe_first else sample
            length = len(template.render(whole, rng=Random(0)).ids)
            if length > row_length:
                raise OmniError(
                    f"sample '{sample.key}' of {task} in '{folder}' has {length} tokens but rows "
                    f"have {row_length}; raise data.row_length, or shorten its text and prepare "
                    f"the data again{_beginning_of_text(sample)}"
                )


def _largest_samples(folder: Path, task: str) -> list[Sample]:
    largest: list[tuple[int, int, int, Location]] = []
    path: Location
    for path in shard_paths(folder, task, "train"):
        index = read_index(path)
        top = index.sizes.argsort()[::-1][:_PER_TASK].tolist()
        found = [
            (int(index.sizes[i]), int(index.offsets[i]), int(index.checksums[i]), path) for i in top
        ]
        largest = sorted([*largest, *found], key=lambda row: row[0], reverse=True)[:_PER_TASK]
    samples = []
    for size, offset, checksum, path in largest:
        files = parse_members(read_range(path, offset, size), path, checksum=checksum)
        samples.append(parse_sample(*files, path))
    return samples


def _beginning_of_text(sample: Sample) -> str:
    texts = [part.text for turn in sample.turns for part in turn.parts if part.text]
    return f" (text: '{max(texts, key=len)[:40]}...')" if texts else ""
