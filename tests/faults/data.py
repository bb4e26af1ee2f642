"""Shards that are damaged, missing, surplus or swapped, as code shards and as raw ones.

Every call damages a copy of a small data folder, reads all of its samples as training, validation
or encoding does, and compares them with those of the folder that is whole. Either all samples come
back unchanged, or a sentence names what is wrong; `verify-data` finds whatever differs.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from fault import Fault, Outcome
from PIL import Image

from data_prep.data_folder import write_manifest
from data_prep.shard_stream import ShardStream
from lightning_omni.data.encoding import encoding_job
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.manifest import MANIFEST
from lightning_omni.data.shard_index import index_path, write_index
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards, parse_sample, read_samples
from lightning_omni.data.template import Template
from lightning_omni.data.verify_data import verify_data
from lightning_omni.errors import OmniError
from lightning_omni.pretrained import FOLDER
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Sample
from lightning_omni.vocab import Vocab

CPU = torch.device("cpu")
TASKS = ("caption", "t2i")
SHARDS, PER_SHARD = {"train": 3, "val": 2}, 4
LANES = 2
SEEDS = 40  # 20 seeds, for code shards and for raw ones

Contents = dict[str, str]
"""JSON of each sample by split, task and key."""


class Damage(NamedTuple):
    """Where damage is done.

    Attributes:
        shard: The shard, by its path.
        other: Another shard of the same task and split.
        far: A shard of the same task and another split.
        foreign: The shard of that name of other data.
        folder: Folder of the shards.
        manifest: Manifest that lists the shard.
        rng: Draws what is changed.
    """

    shard: Path
    other: Path
    far: Path
    foreign: Path
    folder: Path
    manifest: Path
    rng: Random


def _settings(data: Path) -> EncodingSettings:
    return EncodingSettings(data, FOLDER / "image_tokenizer", FOLDER / "speech_tokenizer")


@cache
def _tokenizers() -> LoadedTokenizers:
    return LoadedTokenizers(_settings(Path()), CPU)


def _encode(data: Path) -> Path:
    """Open the codes of a folder as `fit` does; tokenizers are loaded once in all."""
    encoding_job.LoadedTokenizers = lambda settings, device: _tokenizers()  # type: ignore[assignment,misc]
    try:
        return Path(str(ensure_codes(_settings(data), CPU)))
    finally:
        encoding_job.LoadedTokenizers = LoadedTokenizers  # type: ignore[misc]


def _picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _sample(task: str, key: str, text: str) -> bytes:
    words, shown = [{"text": text}], [{"image": f"p-{key}"}]
    asked, answered = (shown, words) if task == "caption" else (words, shown)
    turns = [{"role": "user", "parts": asked}, {"role": "assistant", "parts": answered}]
    return json.dumps({"task": task, "turns": turns, "meta": {}}).encode()


def _make_data(folder: Path, seed: int) -> Path:
    """Write pictures with two tasks of two splits, as prep-data does, and encode them."""
    rng = np.random.default_rng(seed)
    listed = []
    for split, shards in SHARDS.items():
        keys = [f"{split}{n}" for n in range(shards * PER_SHARD)]
        media = ShardStream(folder, "media", "image", split, limit=PER_SHARD)
        for key in keys:
            media.add_item([(f"p-{key}.png", _picture(rng)), (f"p-{key}.json", b"{}")])
        streams = [media]
        for task in TASKS:
            streams.append(ShardStream(folder, "tasks", task, split, limit=PER_SHARD))
            for key in keys:
                word = int(rng.integers(0, 10**9))
                content = _sample(task, key, f"picture {word:09d} of {key}")
                streams[-1].add_item([(f"{task}-{key}.json", content)])
        for stream in streams:
            stream.close()
            listed += map(asdict, stream.shards)
    write_manifest(folder, {"preset": "none", "shards": listed})
    _encode(folder)
    return folder


@cache
def _whole() -> tuple[Path, Path]:
    """Two folders of data: the one that is damaged copies of, and a foreign one."""
    home = Path(tempfile.mkdtemp(prefix="faults-data-"))
    return _make_data(home / "own", 1), _make_data(home / "foreign", 2)


def _codes_of(data: Path) -> Path:
    (manifest,) = (data / "codes").glob(f"*/{MANIFEST}")
    return manifest.parent


@cache
def _template() -> Template:
    text = TextTokenizer()
    codes = json.loads((_codes_of(_whole()[0]) / MANIFEST).read_text())
    vocab = Vocab.from_sizes({"text": text.size, **codes["spans"]}, "native")
    return Template(
        vocab,
        text,
        image_columns=codes["image_columns"],
        codebooks=codes["codebooks"],
        max_tail_pads={},
    )


def _read_train(codes: Path, task: str) -> list[Sample]:
    """Read the training samples of a task as its lanes do, once each."""
    reader = ShardReader(list_shards(codes, task, "train"), lanes=LANES, seed="1")
    found = []
    for lane in range(LANES):
        samples = LaneReader(reader, lane)
        pools = range(lane, reader.order.pools_per_epoch, LANES)
        count = sum(map(reader.order.pool_size, pools))
        found += [parse_sample(*next(samples)) for _ in range(count)]
    return found


def _read_all(data: Path, splits: tuple[str, ...]) -> Contents:
    """Open a folder and read the samples of splits, rendered too."""
    codes = _encode(data)
    found: Contents = {}
    for split in splits:
        for task in TASKS:
            train = split == "train"
            samples = _read_train(codes, task) if train else read_samples(codes, task, split)
            for sample in samples:
                _template().render(sample, rng=Random(0))
                name = f"{split}/{task}/{sample.key}"
                if name in found:
                    return {"twice": name}
                found[name] = json.dumps(sample.to_json())
    return found


@cache
def _truth() -> Contents:
    return _read_all(_whole()[0], tuple(SHARDS))


def _remove(path: Path) -> None:
    path.unlink()
    index_path(path).unlink(missing_ok=True)


def _rename(path: Path, name: str) -> None:
    index_path(path).rename(path.with_name(f"{name}.idx"))
    path.rename(path.with_name(name))


def _copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)
    shutil.copyfile(index_path(path), index_path(target))


def _exchange(one: Path, other: Path) -> None:
    for a, b in ((one, other), (index_path(one), index_path(other))):
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)


def _flip(path: Path, start: int, stop: int, rng: Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(start, min(stop, len(raw)))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def _members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        opened = [(m.name, tar.extractfile(m)) for m in tar]
        return [(name, file.read()) for name, file in opened if file is not None]


def _rewrite(path: Path, members: list[tuple[str, bytes]], *, index: bool) -> None:
    """Write a tar anew, and its index too."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    if index:
        write_index(path)


def _change_list(at: Damage, change: Callable[[dict[str, object], Damage], None]) -> None:
    """Change the manifest that lists the shard."""
    manifest = json.loads(at.manifest.read_text())
    change(manifest, at)
    manifest.pop("checksum", None)  # which would tell of any change
    at.manifest.write_text(json.dumps(manifest))


def _set_count(manifest: dict[str, object], at: Damage, *, make: Callable[[int], object]) -> None:
    counts = manifest.get("samples")
    if isinstance(counts, dict):
        counts[at.shard.name] = make(counts[at.shard.name])
        return
    for entry in manifest["shards"]:  # type: ignore[attr-defined]
        if entry["path"].endswith(at.shard.name):
            entry["samples"] = make(entry["samples"])


def _unlist(manifest: dict[str, object], at: Damage) -> None:
    if isinstance(manifest.get("samples"), dict):
        for name in ("samples", "bytes", "sha256"):
            del manifest[name][at.shard.name]  # type: ignore[attr-defined]
        return
    shards = manifest["shards"]
    manifest["shards"] = [s for s in shards if not s["path"].endswith(at.shard.name)]  # type: ignore[attr-defined]


def _append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def _cut(path: Path, rng: Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


def _cut_at_member(at: Damage) -> None:
    with tarfile.open(at.shard) as tar:
        offsets = [member.offset for member in tar.getmembers()[1:]]
    at.shard.write_bytes(at.shard.read_bytes()[: at.rng.choice(offsets)])


def _change_letter(at: Damage) -> None:
    """Change a digit or letter of a sample or a picture, and make the index anew."""
    members = _members(at.shard)
    number = at.rng.randrange(len(members))
    name, content = members[number]
    places = [i for i, byte in enumerate(content) if chr(byte).isalnum()]
    if not places:
        members[number] = (name, content + b" ")
    else:
        place = at.rng.choice(places)
        changed = b"7" if content[place : place + 1] != b"7" else b"8"
        members[number] = (name, content[:place] + changed + content[place + 1 :])
    _rewrite(at.shard, members, index=True)


def _drop_sample(at: Damage, *, index: bool) -> None:
    members = _members(at.shard)
    key = members[at.rng.randrange(len(members))][0].partition(".")[0]
    _rewrite(at.shard, [m for m in members if m[0].partition(".")[0] != key], index=index)


def _repeat_sample(at: Damage) -> None:
    """Put a sample in a second time, under another key."""
    members = _members(at.shard)
    key = members[0][0].partition(".")[0]
    again = [(n.replace(key, f"{key}x", 1), c) for n, c in members if n.partition(".")[0] == key]
    _rewrite(at.shard, [*members, *again], index=True)


def _zero_block(at: Damage) -> None:
    raw = bytearray(at.shard.read_bytes())
    used = max(i for i, byte in enumerate(raw) if byte) // 512
    start = 512 * at.rng.randrange(used + 1)
    raw[start : start + 512] = bytes(512)
    at.shard.write_bytes(raw)


def _as_folder(at: Damage) -> None:
    at.shard.unlink()
    at.shard.mkdir()


def _as_pipe(at: Damage) -> None:
    at.shard.unlink()
    os.mkfifo(at.shard)


_COUNTS: tuple[Callable[[int], object], ...] = (
    lambda n: n + 1,
    lambda n: n - 1,
    str,
    lambda n: -n,
)
KINDS: dict[str, Callable[[Damage], None]] = {
    "shard removed with its index": lambda d: _remove(d.shard),
    "tar removed, index left": lambda d: d.shard.unlink(),
    "index removed": lambda d: index_path(d.shard).unlink(),
    "cut anywhere": lambda d: _cut(d.shard, d.rng),
    "cut between members": _cut_at_member,
    "emptied": lambda d: d.shard.write_bytes(b""),
    "only an end marker, with index": lambda d: _rewrite(d.shard, [], index=True),
    "a sample dropped, tar closed again": partial(_drop_sample, index=False),
    "a sample dropped, with a new index": partial(_drop_sample, index=True),
    "a sample added, with a new index": _repeat_sample,
    "renumbered": lambda d: _rename(d.shard, f"{d.shard.stem[:-6]}000077.tar"),
    "renamed to another split": lambda d: _rename(d.shard, d.far.name.replace("-00", "-77")),
    "a copy under another number": lambda d: _copy(
        d.shard, d.shard.with_name(f"{d.shard.stem[:-6]}000077.tar")
    ),
    "replaced by another of the task": lambda d: _copy(d.other, d.shard),
    "replaced by the one of other data": lambda d: _copy(d.foreign, d.shard),
    "exchanged with one of another split": lambda d: _exchange(d.shard, d.far),
    "a bit of contents": lambda d: _flip(d.shard, 512, 700, d.rng),
    "a bit of a header": lambda d: _flip(d.shard, 0, 512, d.rng),
    "a bit of the index": lambda d: _flip(index_path(d.shard), 0, 10**9, d.rng),
    "a digit or letter, with a new index": _change_letter,
    "a block of zeros": _zero_block,
    "5,000 bytes behind the end": lambda d: _append(d.shard, d.rng.randbytes(5000)),
    "the manifest's count": lambda d: _change_list(
        d, partial(_set_count, make=d.rng.choice(_COUNTS))
    ),
    "not in the manifest": lambda d: _change_list(d, _unlist),
    "a folder or a pipe in its place": lambda d: d.rng.choice([_as_folder, _as_pipe])(d),
}


def _choose_place(data: Path, number: int, rng: Random) -> tuple[Damage, bool, str]:
    """Return where call `number` damages, whether in raw shards, and which split is read."""
    is_raw, split = bool(number % 2), ("train", "val")[number // 2 % 2]
    far_split = "val" if split == "train" else "train"
    own, foreign = data, _whole()[1]
    kind = rng.choice([*TASKS, "image"] if is_raw else TASKS)
    if is_raw:
        below, manifest = Path("media" if kind == "image" else "tasks"), own / MANIFEST
        folder, other_folder = own / below, foreign / below
    else:
        folder, other_folder = _codes_of(own), _codes_of(foreign)
        manifest = folder / MANIFEST
    first, second = rng.sample(range(SHARDS[split]), 2)
    far = rng.randrange(SHARDS[far_split])
    place = Damage(
        folder / f"{kind}-{split}-{first:06d}.tar",
        folder / f"{kind}-{split}-{second:06d}.tar",
        folder / f"{kind}-{far_split}-{far:06d}.tar",
        other_folder / f"{kind}-{split}-{first:06d}.tar",
        folder,
        manifest,
        rng,
    )
    return place, is_raw, split


def _tree(data: Path) -> dict[str, bytes]:
    """What `verify-data` has to tell apart: shards, the rows of their indices, and manifests."""
    found = {}
    for path in data.rglob("*"):
        name = str(path.relative_to(data))
        if path.suffix == ".tar" or path.name == MANIFEST:
            found[name] = path.read_bytes() if path.is_file() else b"no file"
        elif path.suffix == ".idx" and path.with_suffix("").exists():
            found[name] = path.read_bytes()[128:]
    return found


def _verify(data: Path) -> tuple[bool, str]:
    """Return whether `verify-data` finds damage, and its raw error if it has one."""
    try:
        with redirect_stderr(io.StringIO()):
            verify_data(str(data))
    except OmniError:
        return True, ""
    except Exception as error:  # noqa: BLE001  that none comes is what is tested
        return False, f"verify-data: {error!r}"
    return False, ""


def _run_kind(kind: str, number: int, folder: Path) -> Iterator[Outcome]:
    rng = Random(f"{kind}-{number}")
    data = shutil.copytree(_whole()[0], folder / "data")
    place, is_raw, split = _choose_place(data, number, rng)
    truth = _truth()
    if is_raw:
        shutil.rmtree(data / "codes")
    before = _tree(data)
    KINDS[kind](place)
    after = _tree(data)
    differs = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    index = str(index_path(place.shard).relative_to(data))
    differs -= {index} if index not in after and kind == "index removed" else set()
    found, raw = _verify(data)
    detail = f"{kind}, {'raw' if is_raw else 'codes'}, {place.shard.name}, {split}: "
    is_header = kind == "a bit of the index" and not differs  # of which little is read
    if raw or (found != bool(differs) and not is_header):
        yield Outcome(False, "missed by verify-data", f"{detail}{raw or sorted(differs)}")
        return
    told = "found by verify-data" if found else "nothing to be found"
    try:
        read = _read_all(data, (*SHARDS,) if is_raw else (split,))
    except OmniError as error:
        names = (place.far.stem, place.shard.stem, place.shard.name[:-10], MANIFEST)
        is_named = any(name in str(error) for name in names)
        yield Outcome(is_named, f"refused, {told}", f"{detail}{error}")
        return
    except Exception as error:  # noqa: BLE001  as above
        yield Outcome(False, "raw error", f"{detail}{error!r}")
        return
    wanted = {n: v for n, v in truth.items() if is_raw or n.startswith(f"{split}/")}
    lost = sorted(wanted.keys() - read.keys())
    altered = sorted(n for n in read if read[n] != wanted.get(n))
    if lost or altered:
        yield Outcome(False, "silent loss or change", f"{detail}lost {lost}, altered {altered}")
        return
    yield Outcome(True, f"all samples right, {told}", detail)


FAULTS: tuple[Fault, ...] = tuple(Fault(kind, SEEDS, partial(_run_kind, kind)) for kind in KINDS)
