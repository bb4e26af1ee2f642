"""`prep-data --speak`: the written visual data of a prepared folder, spoken."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.data_folder import read_extendable_manifest, write_attribution, write_manifest
from data_prep.key_set import KeySet
from data_prep.shard_folders import lock_data_folder, move_shards, open_unfinished_folder
from data_prep.shard_stream import ShardEntry
from data_prep.speech.picture_table import PictureTable, read_shard_keys
from data_prep.speech.speakable import RULES
from data_prep.speech.speaker_pool import ClipSpeaker, SpeakerPool
from data_prep.speech.spoken_visual_data import (
    KEPT,
    SPOKEN_TASKS,
    SpeakOptions,
    SpokenVisualBuilder,
)
from data_prep.speech.synthesizer_config import clip_cache_folder, synthesizer_source_and_licence
from data_prep.streamed_collection import StreamedCollection
from lightning_omni.data.manifest import MANIFEST, read_manifest
from lightning_omni.data.shards import shard_paths
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
    written = [] if _is_same_folder(data, out) else _mark_sources_as_spoken(read_manifest(data))
    splits = _splits_to_speak(data)
    make_folder(out)
    try:
        _refuse_foreign_files(out)
        _refuse_repeated_data(read_extendable_manifest(out), data, out)
        folder = out.resolve().with_name(f"{out.resolve().name}.spoken.partial")
        with (
            _open_builder(data, options, cache) as speaker,
            open_unfinished_folder(folder) as (built, _),
        ):
            shards: list[ShardEntry] = []
            for split in splits:
                shards += _write_split_shards(
                    speaker, split, built, has_pictures=_is_same_folder(data, out)
                )
            _require_kept_samples(speaker)
            with lock_data_folder(out):
                _refuse_foreign_files(out)
                earlier = read_extendable_manifest(out)
                _refuse_repeated_data(earlier, data, out)
                moved = move_shards(built, shards, out, [s["path"] for s in earlier["shards"]])
                made = _add_spoken_to_manifest(earlier, written, speaker, moved)
                write_attribution(out, made["sources"])
                manifest = write_manifest(out, {**facts, **made})
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing was written into it
    for line in left_out_table(manifest[SPOKEN][-1]["samples"]):
        log.info(line)
    return manifest


def left_out_table(samples: dict[str, dict[str, dict[str, int]]]) -> list[str]:
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
def _open_builder(data: Path, options: SpeakOptions, cache: Path) -> Iterator[SpokenVisualBuilder]:
    clips = clip_cache_folder(options.config, cache)
    one = ClipSpeaker(options.config, clips)
    pool = SpeakerPool(one, options.config, clips, processes=options.processes)
    with closing(pool):
        yield SpokenVisualBuilder(data, one.synthesizer, options, pool, clips)


def _write_split_shards(
    speaker: SpokenVisualBuilder, split: str, built: Path, *, has_pictures: bool
) -> list[ShardEntry]:
    """Write the shards of a split; tables of keys lie beside its media for as long as it takes."""
    media = built / "media"
    media.mkdir(exist_ok=True)
    tables = [media / f"{split}.keys.sqlite", media / f"{split}.pictures.sqlite"]
    with closing(KeySet(tables[0])) as keys, StreamedCollection(built, keys) as collection:
        if has_pictures:
            for path in shard_paths(speaker.data / "media", "image", split):
                for key in read_shard_keys(path):
                    keys.add_key("media image", key)
            speaker.speak_split(split, collection, None)
        else:
            with closing(PictureTable(speaker.data, split, tables[1])) as pictures:
                speaker.speak_split(split, collection, pictures)
        shards = collection.finish_shards(split)
    for path in tables:
        path.unlink(missing_ok=True)
    return shards


def _splits_to_speak(data: Path) -> list[str]:
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


def _is_same_folder(data: Path, out: Path) -> bool:
    return data.resolve() == out.resolve()


def _refuse_foreign_files(out: Path) -> None:
    is_data = (out / MANIFEST).is_file()
    if not is_data and any(path.name != ".lock" for path in out.iterdir()):
        raise OmniError(f"'{out}' is not empty and no data folder; choose another --out")


def _refuse_repeated_data(earlier: dict[str, Any], data: Path, out: Path) -> None:
    if any(_is_same_folder(Path(entry["data"]), data) for entry in earlier.get(SPOKEN, [])):
        raise OmniError(f"'{out}' already holds '{data}' spoken; choose another --out")


def _require_kept_samples(speaker: SpokenVisualBuilder) -> None:
    if not any(counts[KEPT] for counts in speaker.counts.values()):
        left_out = ", ".join(sorted({rule for c in speaker.counts.values() for rule in c}))
        raise OmniError(
            f"no sample of '{speaker.data}' can be spoken (rules: {left_out}); see "
            "docs/spoken_visual_data.md"
        )


def _add_spoken_to_manifest(
    earlier: dict[str, Any],
    written: list[dict[str, str]],
    speaker: SpokenVisualBuilder,
    shards: list[ShardEntry],
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


def _mark_sources_as_spoken(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """Return the sources of the written data, marked so that they do not pass for these."""
    names = ("name", "version", "licence")
    return [
        {**{name: one[name] for name in names}, "how": f"{one['how']}, spoken"}
        for one in manifest.get("sources", [])
    ]


def _synthesizer_sources(speaker: SpokenVisualBuilder) -> list[dict[str, str]]:
    voices = (*speaker.synthesizer.question_voices, speaker.synthesizer.answer_voice)
    config = speaker.options.config
    found = sorted(
        {synthesizer_source_and_licence(config, speaker.synthesizer, voice) for voice in voices}
    )
    return [
        {"name": name, "version": "as installed", "how": "speech", "licence": licence}
        for name, licence in found
    ]
