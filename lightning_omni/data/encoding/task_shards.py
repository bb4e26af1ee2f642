"""Write a task shard whose media are codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import webdataset as wds

from lightning_omni.data.encoding.code_index import CodeIndex
from lightning_omni.data.encoding.code_store import medium_digest
from lightning_omni.data.encoding.media_codes import REQUEST_IMAGE, SPEECH_FEATURES, stream_dtype
from lightning_omni.data.encoding.plan import Plan
from lightning_omni.data.shards import parse_sample, read_shard
from lightning_omni.data.speech_feature_files import Features, feature_files, user_speech_parts
from lightning_omni.errors import OmniError
from lightning_omni.modalities import IMAGE
from lightning_omni.types import Part, Sample


def write_task_shard(path: Path, shard: Path, plan: Plan, index: CodeIndex) -> int:
    """Write a task shard whose media are codes; return the number of samples.

    Args:
        path: File to write.
        shard: Task shard that refers to media.
        plan: Plan, which says what was encoded of the media.
        index: Finds the codes of the media.

    Raises:
        OmniError: If a sample refers to a medium that is missing or has no tokenizer.
    """
    samples = 0
    with (
        path.open("wb") as stream,
        wds.TarWriter(stream, mtime=0, encoder=False) as writer,
    ):
        for row in _encode_samples(shard, plan, index):
            writer.write(row)
            samples += 1
    return samples


def _encode_samples(shard: Path, plan: Plan, index: CodeIndex) -> Iterator[dict[str, str | bytes]]:
    for key, files in read_shard(shard):
        sample = parse_sample(key, files, shard)
        plain = json.dumps(
            _replace_media_by_codes(sample, plan, index).to_json(), separators=(",", ":")
        )
        beside = _feature_files(sample, index) if SPEECH_FEATURES in plan.streams else {}
        yield {"__key__": key, "json": plain.encode(), **beside}


def _replace_media_by_codes(sample: Sample, plan: Plan, index: CodeIndex) -> Sample:
    def replace_medium(part: Part, role: str) -> Part:
        if part.key is None:
            return part
        if part.modality not in plan.streams:
            raise OmniError(
                f"sample '{sample.key}' holds {part.modality}, which has no tokenizer; name its "
                "folder in data.file_tokenizers"
            )
        is_request = role == "user" and part.modality == IMAGE and REQUEST_IMAGE in plan.streams
        stream = REQUEST_IMAGE if is_request else part.modality
        codes = index.find(medium_digest(stream, part.key), stream_dtype(stream))
        if codes is None:
            raise OmniError(
                f"sample '{sample.key}' refers to {part.modality} '{part.key}', not in the "
                "media shards; prepare the data again"
            )
        return replace(part, key=None, codes=tuple(codes.tolist()))

    turns = tuple(
        replace(t, parts=tuple(replace_medium(p, t.role) for p in t.parts)) for t in sample.turns
    )
    return replace(sample, turns=turns)


def _feature_files(sample: Sample, index: CodeIndex) -> dict[str, bytes]:
    """Return the files of a sample's features."""
    found: list[Features] = []
    for part in user_speech_parts(sample):
        if part.key is None:
            raise OmniError(
                f"sample '{sample.key}' holds speech as codes, but features need its recordings; "
                "prepare the data with them"
            )
        features = index.find(
            medium_digest(SPEECH_FEATURES, part.key), stream_dtype(SPEECH_FEATURES)
        )
        assert features is not None  # noqa: S101  its codes were found
        found.append(features)
    return feature_files(found)
