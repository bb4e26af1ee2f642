"""Turn prepared media into codes once, so that joint training loads no tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from rich.progress import track
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from lightning_omni.data.features_store import Features, members_of, user_speech
from lightning_omni.data.media import image_to_tensor, read_audio, read_image, square
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.shards import MANIFEST, medium_of, parse_sample, read_manifest, read_shard
from lightning_omni.data.storage.locations import Location, Url
from lightning_omni.devices import AUTO, device_facts, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE, modality_named
from lightning_omni.nn.computation import computation_facts
from lightning_omni.pretrained import fingerprint
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.tokenizers.base import FileTokenizer, Tokenizer
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.types import Part, Sample

log = logging.getLogger(__name__)

FEATURES_FILE = "features.safetensors"
BATCH = 64
Codes = dict[str, tuple[int, ...]]


def ensure_codes(
    data: Location,
    *,
    image_tokenizer: Path,
    speech_tokenizer: Path,
    continuous_speech: SpeechFeatureEncoder | None = None,
    file_tokenizers: Mapping[str, Path] | None = None,
    device: torch.device | None = None,
    request_image_size: int | None = None,
) -> Location:
    """Return the folder of code shards of these tokenizers; encode `data` if it does not exist.

    The folder's name hashes the prepared data and all tokenizers, so shards of another tokenizer
    can never be picked up. With a speech feature encoder the features of the users' speech are
    stored beside the samples, and its hash is part of the name too.

    Args:
        data: Folder written by prep-data; at a URL it must be encoded.
        image_tokenizer: Folder of an exported image tokenizer.
        speech_tokenizer: Folder of an exported speech tokenizer.
        continuous_speech: Encoder of speech features; None without continuous speech.
        file_tokenizers: Folders of the tokenizers of further modalities.
        device: Device of the tokenizers; None for a GPU if there is one.
        request_image_size: Side of pictures in requests in pixels; None for the image tokenizer's.

    Raises:
        OmniError: If the data or a tokenizer is missing, a picture of that size has no codes, or
            data at a URL are not encoded.
    """
    read_manifest(data)
    hashes = {
        "data": hashlib.sha256((data / MANIFEST).read_bytes()).hexdigest(),
        "image": _fingerprint(image_tokenizer, "image"),
        "speech": _fingerprint(speech_tokenizer, "speech"),
    }
    if continuous_speech is not None:
        hashes["heard"] = continuous_speech.fingerprint()  # its key names folders: it stays
    if request_image_size is not None:
        hashes["request_image_size"] = str(request_image_size)
    further = file_tokenizers or {}
    hashes |= {name: _fingerprint(source, name) for name, source in further.items()}
    name = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]
    folder = data / "codes" / name
    if not (folder / MANIFEST).is_file():
        if isinstance(data, Url) or isinstance(folder, Url):
            raise OmniError(
                f"the data at '{data}' are not encoded by these tokenizers (no "
                f"'codes/{name}/{MANIFEST}'); run `lightning_omni encode` on a local copy and "
                "upload its codes, or set data.data to a local folder"
            )
        used = device or resolve_device(AUTO)
        log.info("encoding the media of %s into %s on %s", data, folder, used)
        image = ImageTokenizer.from_pretrained(image_tokenizer).to(used)
        size = request_image_size or image.image_size
        if request_image_size is not None:
            image.columns_of(size)  # a size without whole codes is refused here
        speech = SpeechTokenizer.from_pretrained(speech_tokenizer).to(used)
        unfinished = folder.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        features = data / "codes" / f"{name}.features"
        if continuous_speech is not None:
            _encode_features(data, features, continuous_speech.to(used))
        loaded = load_file_tokenizers(further)
        _encode_folder(data, unfinished, image, speech, loaded, features, hashes, size)
        shutil.rmtree(features, ignore_errors=True)
        unfinished.rename(folder)
    return folder


def load_features(folder: Location) -> dict[str, Tensor]:
    """Return the code features of each modality, Float[num_codes, F], as its tokenizer has them."""
    if isinstance(folder, Url):
        return load((folder / FEATURES_FILE).read_bytes())
    return load_file(folder / FEATURES_FILE)


def load_file_tokenizers(folders: Mapping[str, Path]) -> dict[str, FileTokenizer]:
    """Load the tokenizers of further modalities.

    Raises:
        OmniError: If one is missing or belongs to another modality.
    """
    loaded = {name: FileTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    for name, tokenizer in loaded.items():
        if tokenizer.name != name:
            raise OmniError(f"'{folders[name]}' holds a tokenizer of {tokenizer.name}, not {name}")
    return loaded


def _fingerprint(folder: Path, name: str) -> str:
    if not (folder / "config.json").is_file():
        if modality_named(name).is_file:
            raise OmniError(
                f"no {name} tokenizer in '{folder}'; give its exported folder in "
                f"data.file_tokenizers.{name}"
            )
        raise OmniError(
            f"no {name} tokenizer in '{folder}'; train it first with "
            f"`lightning_omni fit --config recipes/{name}_tokenizer.yaml`, or point the recipe's "
            f"data.{name}_tokenizer at an exported folder"
        )
    return fingerprint(folder)


@torch.inference_mode()
def _encode_folder(
    data: Path,
    folder: Path,
    image: ImageTokenizer,
    speech: SpeechTokenizer,
    further: Mapping[str, FileTokenizer],
    features_folder: Path,
    hashes: dict[str, str],
    request_size: int,
) -> None:
    request_images, images = _encode_images(data, image, request_size)
    codes = {
        "image": images,
        "speech": dict(_speech_codes(_read_media(data, "speech"), speech)),
        **{name: _file_codes(_read_media(data, name), one) for name, one in further.items()},
    }
    counts: dict[str, int] = {}
    for path in sorted((data / "tasks").glob("*.tar")):
        with (
            (folder / path.name).open("wb") as stream,
            wds.TarWriter(stream, mtime=0, encoder=False) as writer,
        ):
            for key, files in read_shard(path):
                sample = parse_sample(key, files, path)
                plain = json.dumps(
                    _with_codes(sample, codes, request_images).to_json(), separators=(",", ":")
                )
                beside = _feature_members(sample, features_folder) if "heard" in hashes else {}
                writer.write({"__key__": key, "json": plain.encode(), **beside})
                counts[path.name] = counts.get(path.name, 0) + 1
        write_index(folder / path.name)
    tokenizers: dict[str, Tokenizer] = {"speech": speech, "image": image, **further}
    features = {name: one.code_features for name, one in tokenizers.items()}
    codecs = {"image": image, "speech": speech}
    save_file(
        {k: v.detach().float().cpu().contiguous() for k, v in features.items()},
        folder / FEATURES_FILE,
    )
    manifest = {
        "hashes": hashes,
        "spans": {name: one.num_codes for name, one in tokenizers.items()},
        "image_columns": image.columns,
        "codebooks": speech.num_codebooks,
        "tokens_per_second": speech.frame_rate * speech.num_codebooks,
        "samples": counts,
        "tasks": TASK_NAMES,
        "device": device_facts(image.device)["device"],
        "computation": {name: computation_facts(codec) for name, codec in codecs.items()},
    }
    if request_size != image.image_size:
        manifest["request_image_columns"] = image.columns_of(request_size)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _read_media(data: Path, kind: str) -> Iterator[tuple[str, bytes]]:
    for path in track(sorted((data / "media").glob(f"{kind}-*.tar")), f"encoding {kind}"):
        for key, files in read_shard(path):
            yield key, medium_of(files, key, path)


def _encode_images(data: Path, tokenizer: ImageTokenizer, request_size: int) -> tuple[Codes, Codes]:
    """Return the codes of pictures in requests and elsewhere; of two sizes, those in use."""
    if request_size == tokenizer.image_size:
        both = dict(_image_codes(_read_media(data, "image"), tokenizer, request_size))
        return both, both
    in_requests: set[str | None] = set()
    elsewhere: set[str | None] = set()
    for path in sorted((data / "tasks").glob("*.tar")):
        for key, files in read_shard(path):
            for turn in parse_sample(key, files, path).turns:
                keys = {p.key for p in turn.parts if p.modality == "image"}
                (in_requests if turn.role == "user" else elsewhere).update(keys)

    def encoded(keys: set[str | None], size: int) -> Codes:
        media = (row for row in _read_media(data, "image") if row[0] in keys)
        return dict(_image_codes(media, tokenizer, size))

    return encoded(in_requests, request_size), encoded(elsewhere, tokenizer.image_size)


def _image_codes(
    media: Iterable[tuple[str, bytes]], tokenizer: ImageTokenizer, size: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    batch = max(1, min(BATCH, BATCH * tokenizer.image_size**2 // size**2))
    keys: list[str] = []
    pixels: list[Tensor] = []

    def flush() -> Iterator[tuple[str, tuple[int, ...]]]:
        if keys:
            rows = tokenizer.encode(torch.stack(pixels).to(tokenizer.device)).tolist()
            yield from zip(keys, map(tuple, rows), strict=True)
        keys.clear()
        pixels.clear()

    for key, content in media:
        picture = square(read_image(content, name=key), size)
        keys.append(key)
        pixels.append(image_to_tensor(picture))
        if len(keys) == batch:
            yield from flush()
    yield from flush()


def _speech_codes(
    media: Iterable[tuple[str, bytes]], tokenizer: SpeechTokenizer
) -> Iterator[tuple[str, tuple[int, ...]]]:
    rate = tokenizer.sample_rate
    for key, content in media:
        wave = torch.from_numpy(read_audio(content, sample_rate=rate, name=key))
        codes = tokenizer.encode(wave[None].to(tokenizer.device), sample_rate=rate)
        yield key, tuple(codes[0].tolist())


def _file_codes(media: Iterable[tuple[str, bytes]], tokenizer: FileTokenizer) -> Codes:
    return {key: tuple(tokenizer.encode(content)) for key, content in media}


def _encode_features(data: Path, folder: Path, encoder: SpeechFeatureEncoder) -> None:
    """Write the features of the users' speech, one file per recording, to save memory."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = {
        part.key
        for path in sorted((data / "tasks").glob("*.tar"))
        for key, files in read_shard(path)
        for part in user_speech(parse_sample(key, files, path))
    }
    for key, content in _read_media(data, "speech"):
        if key in wanted:
            wave = torch.from_numpy(read_audio(content, sample_rate=SAMPLE_RATE, name=key))
            np.save(folder / f"{key}.npy", encoder.encode(wave, name=key), allow_pickle=False)


def _feature_members(sample: Sample, folder: Path) -> dict[str, bytes]:
    """Return the files of a sample's features."""
    found: list[Features] = []
    for part in user_speech(sample):
        if part.key is None:
            raise OmniError(
                f"sample '{sample.key}' holds speech as codes, but features need its recordings; "
                "prepare the data with them"
            )
        found.append(np.load(folder / f"{part.key}.npy", allow_pickle=False))
    return members_of(found)


def _with_codes(sample: Sample, codes: dict[str, Codes], request_images: Codes) -> Sample:
    def encoded(part: Part, codes: dict[str, Codes]) -> Part:
        if part.key is None:
            return part
        if part.modality not in codes:
            raise OmniError(
                f"sample '{sample.key}' holds {part.modality}, which has no tokenizer; name its "
                "folder in data.file_tokenizers"
            )
        if part.key not in codes[part.modality]:
            raise OmniError(
                f"sample '{sample.key}' refers to {part.modality} '{part.key}', not in the "
                "media shards; prepare the data again"
            )
        return replace(part, key=None, codes=codes[part.modality][part.key])

    in_request = {**codes, "image": request_images}
    by_role = [(t, in_request if t.role == "user" else codes) for t in sample.turns]
    turns = tuple(replace(t, parts=tuple(encoded(p, own) for p in t.parts)) for t, own in by_role)
    return replace(sample, turns=turns)
