"""Samples of a prepared folder with their pictures and recordings, as HTML."""

from __future__ import annotations

import io
from collections.abc import Mapping
from html import escape
from random import Random

import soundfile

from lightning_omni.data.media import read_audio, read_image
from lightning_omni.data.shards import find_medium_file, read_shard, shard_paths
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.studies.inspect.contents import Contents, read_samples_in_order
from lightning_omni.studies.report.data_uris import encode_data_uri
from lightning_omni.types import Part, Sample

_SIDE = 256


def choose_samples(
    folder: Location, contents: list[Contents], *, count: int, limit: int, seed: int
) -> list[tuple[str, Sample]]:
    """Return samples with their splits, of as many tasks as there are, among the first stored.

    Args:
        folder: Folder of task shards.
        contents: What it holds.
        count: Number of samples.
        limit: Samples of each task that are read to choose from.
        seed: Seed of the choice.
    """
    rng = Random(seed)
    train = [c for c in contents if c.split == "train"] or contents
    found = []
    for n in range(count if train else 0):
        row = train[n % len(train)]
        index = rng.randrange(max(min(row.total, limit), 1))
        for i, sample in enumerate(read_samples_in_order(folder, row.kind, row.split)):
            if i == index:
                found.append((row.split, sample))
                break
    return found


def read_media(folder: Location, chosen: list[tuple[str, Sample]]) -> dict[str, bytes]:
    """Return the media that samples refer to, by key, from the media shards of their splits."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for split, sample in chosen:
        for part in (p for t in sample.turns for p in t.parts):
            if part.key is not None:
                wanted.setdefault((part.modality, split), set()).add(part.key)
    found: dict[str, bytes] = {}
    for (modality, split), keys in wanted.items():
        for path in shard_paths(folder, modality, split):
            if keys <= found.keys():
                break
            found |= {k: find_medium_file(f, k, path) for k, f in read_shard(path) if k in keys}
    return found


def examples_html(chosen: list[tuple[str, Sample]], media: Mapping[str, bytes]) -> str:
    """Return samples as HTML, turn by turn."""
    parts = []
    for split, sample in chosen:
        turns = "".join(
            f'<figure class="side"><figcaption>{escape(turn.role)}</figcaption>'
            f"{''.join(_part_html(p, media) for p in turn.parts)}</figure>"
            for turn in sample.turns
        )
        facts = [sample.task, split, sample.key, *(f"{k}: {v}" for k, v in sample.meta.items())]
        parts.append(
            f'<article class="exhibit"><header>{escape(" · ".join(map(str, facts)))}</header>'
            f'<div class="sides">{turns}</div></article>'
        )
    return "".join(parts)


def _part_html(part: Part, media: Mapping[str, bytes]) -> str:
    if part.modality == "text":
        return f'<div class="said">“{escape(part.text or "")}”</div>'
    if part.codes is not None:
        return f'<div class="said soft">{len(part.codes)} {escape(part.modality)} codes</div>'
    content = media.get(part.key or "")
    if content is None:
        return f'<div class="said soft">{escape(part.modality)} {part.key}, which is missing</div>'
    try:
        return _medium_html(part.modality, content, part.key or "")
    except OmniError as error:
        return f'<div class="said"><span class="badge bad">{escape(str(error))}</span></div>'


def _medium_html(modality: str, content: bytes, name: str) -> str:
    if modality == "image":
        picture = read_image(content, name=name)
        facts = f"{picture.width} x {picture.height}"
        picture.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        picture.save(out, "PNG")
        uri = encode_data_uri(out.getvalue(), "image/png")
        return f'<img class="picture" src="{uri}" alt="{escape(name)}" title="{facts}">'
    if modality == "speech":
        wave = read_audio(content, sample_rate=SAMPLE_RATE, name=name)
        out = io.BytesIO()
        soundfile.write(out, wave, SAMPLE_RATE, format="FLAC")
        uri = encode_data_uri(out.getvalue(), "audio/flac")
        return f'<audio controls preload="none" src="{uri}"></audio>{len(wave) / SAMPLE_RATE:.1f} s'
    return f'<div class="said soft">{escape(modality)}, {len(content)} bytes</div>'
