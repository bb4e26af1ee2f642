"""`prep-data --speak`: the written visual data of a prepared folder, spoken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.shard_stream import Shard
from data_prep.speech.pictures import PictureTable, keys_of
from data_prep.speech.speakable import RULES
from data_prep.speech.speaker_pool import ClipSpeaker, SpeakerPool
from data_prep.speech.spoken_visual_data import (
    KEPT,
    SPOKEN_TASKS,
    SpeakOptions,
    SpokenVisualBuilder,
)
from data_prep.speech.voices import cache_folder, clip_source
from data_prep.streaming import (
    KeySet,
    StreamedCollection,
    locked,
    move_shards,
    unfinished_folder,
)
from data_prep.writer import attribution, write_manifest
from lightning_omni.data.shards import MANIFEST, read_manifest, shard_paths
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.types import SPLITS

log = logging.getLogger(__name__)

SPOKEN = "spoken"
"""Entry of the manifest: what was spoken, from what, and how many samples each rule left out."""


def prepare_spoken(
    data: Path, out: Path, options: SpeakOptions, *, cache: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Turn the vqa and t2i samples of a prepared folder into svqa and s2i; return the manifest.

    Samples of every split go into the same split. Memory does not grow with the data, and `out`
    changes when all was spoken. The bytes are a function of data, synthesizer and seed, not of the
    number of processes.

    Args:
        data: Folder written by prep-data.
        out: Data folder to write into: a new one, a folder of corpora, or `data` itself if it is
            one, whose pictures are not stored twice then.
        options: How the data are spoken.
        cache: Folder that keeps synthetic speech between builds.
        facts: Further entries of the manifest.

    Raises:
        OmniError: If the data hold neither task or are damaged, `out` holds other data or these
            already, or nothing can be spoken.
    """
    written = [] if _is_same(data, out) else _written_sources(read_manifest(data))
    splits = _splits(data)
    make_folder(out)
    try:
        _refuse_repeated(_earlier(out), data, out)
        folder = out.resolve().with_name(f"{out.resolve().name}.spoken.partial")
        with _speaker(data, options, cache) as speaker, unfinished_folder(folder) as (built, _):
            shards: list[Shard] = []
            for split in splits:
                shards += _add_split(speaker, split, built, has_pictures=_is_same(data, out))
            _require_kept(speaker)
            with locked(out):
                earlier = _earlier(out)
                _refuse_repeated(earlier, data, out)
                moved = move_shards(built, shards, out, [s["path"] for s in earlier["shards"]])
                made = _with_spoken(earlier, written, speaker, moved)
                (out / "ATTRIBUTION.md").write_text(attribution(made["sources"]), encoding="utf-8")
                manifest = write_manifest(out, {**facts, **made})
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing was written into it
    for line in table(manifest[SPOKEN][-1]["samples"]):
        log.info(line)
    return manifest


def table(samples: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Return lines of a table: rules by task, all splits together.

    Args:
        samples: Number of samples by task, split and rule.
    """
    totals = {
        task: {rule: sum(c.get(rule, 0) for c in by_split.values()) for rule in (KEPT, *RULES)}
        for task, by_split in samples.items()
    }
    rows = [("rule", *totals)]
    for rule in (KEPT, *RULES):
        numbers = [counts[rule] for counts in totals.values()]
        if rule == KEPT or any(numbers):
            rows.append((rule, *map(str, numbers)))
    rows.append(("total", *(str(sum(counts.values())) for counts in totals.values())))
    return ["".join([f"{row[0]:<20}", *(f"{cell:>9}" for cell in row[1:])]) for row in rows]


@contextmanager
def _speaker(data: Path, options: SpeakOptions, cache: Path) -> Iterator[SpokenVisualBuilder]:
    clips = cache_folder(options.config, cache)
    one = ClipSpeaker(options.config, clips)
    pool = SpeakerPool(one, options.config, clips, processes=options.processes)
    with closing(pool):
        yield SpokenVisualBuilder(data, one.synthesizer, options, pool, clips)


def _add_split(
    speaker: SpokenVisualBuilder, split: str, built: Path, *, has_pictures: bool
) -> list[Shard]:
    """Write the shards of a split; tables of keys lie beside its media for as long as it takes."""
    media = built / "media"
    media.mkdir(exist_ok=True)
    tables = [media / f"{split}.keys.sqlite", media / f"{split}.pictures.sqlite"]
    with closing(KeySet(tables[0])) as keys, StreamedCollection(built, keys) as collection:
        if has_pictures:
            for path in shard_paths(speaker.data / "media", "image", split):
                for key in keys_of(path):
                    keys.add("media image", key)
            speaker.add_split(split, collection, None)
        else:
            with closing(PictureTable(speaker.data, split, tables[1])) as pictures:
                speaker.add_split(split, collection, pictures)
        shards = collection.finish(split)
    for path in tables:
        path.unlink(missing_ok=True)
    return shards


def _splits(data: Path) -> list[str]:
    """Return the splits that have samples to speak."""
    found = [
        split
        for split in SPLITS
        if any(shard_paths(data / "tasks", task, split) for task in SPOKEN_TASKS)
    ]
    if not found:
        raise OmniError(
            f"'{data}' has no shards of {' or '.join(SPOKEN_TASKS)}; give a folder that has"
        )
    return found


def _is_same(data: Path, out: Path) -> bool:
    return data.resolve() == out.resolve()


def _earlier(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder of corpora, an empty one if there is none."""
    if not (out / MANIFEST).is_file():
        if any(path.name != ".lock" for path in out.iterdir()):
            raise OmniError(f"'{out}' is not empty and no data folder; choose another --out")
        return {"shards": [], "sources": []}
    earlier = read_manifest(out)
    if not isinstance(earlier.get("shards"), list) or earlier.get("preset"):
        raise OmniError(
            f"'{out}' holds other data (preset {earlier.get('preset')}); choose another --out"
        )
    return earlier


def _refuse_repeated(earlier: dict[str, Any], data: Path, out: Path) -> None:
    if any(_is_same(Path(entry["data"]), data) for entry in earlier.get(SPOKEN, [])):
        raise OmniError(f"'{out}' already holds '{data}' spoken; choose another --out")


def _require_kept(speaker: SpokenVisualBuilder) -> None:
    if not any(counts[KEPT] for counts in speaker.counts.values()):
        left_out = ", ".join(sorted({rule for c in speaker.counts.values() for rule in c}))
        raise OmniError(
            f"no sample of '{speaker.data}' can be spoken (rules: {left_out}); see "
            "docs/spoken_visual_data.md"
        )


def _with_spoken(
    earlier: dict[str, Any],
    written: list[dict[str, str]],
    speaker: SpokenVisualBuilder,
    shards: list[Shard],
) -> dict[str, Any]:
    """Return the entries of the manifest with those of the spoken data."""
    samples: dict[str, dict[str, dict[str, int]]] = {}
    counts = {task: dict(by_split) for task, by_split in earlier.get("counts", {}).items()}
    for (task, split), found in speaker.counts.items():
        samples.setdefault(task, {})[split] = dict(found)
        if found[KEPT]:
            by_split = counts.setdefault(task, {})
            by_split[split] = by_split.get(split, 0) + found[KEPT]
    options, synthesizer = speaker.options, speaker.synthesizer
    entry = {
        "data": str(speaker.data),
        "synthesizer": options.config,
        "question_voices": len(synthesizer.question_voices),
        "answer_voice": synthesizer.answer_voice,
        "seed": options.seed,
        "max_answer_words": options.max_answer_words,
        "max_samples": options.max_samples,
        "samples": samples,
    }
    sources = [*earlier.get("sources", [])]
    for one in (*written, *_synthesizer_sources(speaker)):
        if one not in sources:
            sources.append(one)
    return {
        **{name: value for name, value in earlier.items() if name not in ("layout", "tools")},
        "preset": None,
        "sources": sources,
        "counts": counts,
        "shards": [*earlier["shards"], *map(asdict, shards)],
        SPOKEN: [*earlier.get(SPOKEN, []), entry],
    }


def _written_sources(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """Return the sources of the written data, marked so that they do not pass for these."""
    names = ("name", "version", "licence")
    return [
        {**{name: one[name] for name in names}, "how": f"{one['how']}, spoken"}
        for one in manifest.get("sources", [])
    ]


def _synthesizer_sources(speaker: SpokenVisualBuilder) -> list[dict[str, str]]:
    voices = (*speaker.synthesizer.question_voices, speaker.synthesizer.answer_voice)
    config = speaker.options.config
    found = sorted({clip_source(config, speaker.synthesizer, voice) for voice in voices})
    return [
        {"name": name, "version": "as installed", "how": "speech", "licence": licence}
        for name, licence in found
    ]
