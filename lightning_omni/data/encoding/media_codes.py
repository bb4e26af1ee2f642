"""Encode the media of one shard: pictures in batches, recordings by length, files one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_omni.data.encoding.code_store import Array
from lightning_omni.data.encoding.computed_batches import (
    ComputedBatch,
    encode_in_batches,
    group_by_length,
    send_to_device,
    split_into_groups,
)
from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.references import IN_ANSWER, IN_REQUEST, ReferenceIndex
from lightning_omni.data.media import (
    center_crop_and_resize,
    image_to_tensor,
    read_audio,
    read_image,
)
from lightning_omni.data.shards import find_medium_file, read_shard
from lightning_omni.modalities import IMAGE, SAMPLE_RATE, SPEECH
from lightning_omni.tokenizers.base import FileTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder

BATCH = 64
REQUEST_IMAGE, SPEECH_FEATURES = "request_image", "speech_features"
CODE, FEATURE = np.dtype("<i4"), np.dtype("<f2")
Media = Iterable[tuple[str, bytes]]
Encoded = Iterator[tuple[str, Array]]


def media_streams(tokenizers: LoadedTokenizers) -> dict[str, str]:
    """Return what is encoded of media: name of the stream and modality."""
    streams = {IMAGE: IMAGE, SPEECH: SPEECH, **{name: name for name in tokenizers.files}}
    if tokenizers.has_two_image_sizes:
        streams[REQUEST_IMAGE] = IMAGE
    if tokenizers.continuous_speech is not None:
        streams[SPEECH_FEATURES] = SPEECH
    return streams


def stream_dtype(stream: str) -> np.dtype[np.int32] | np.dtype[np.float16]:
    """Return the type of a stream's arrays."""
    return FEATURE if stream == SPEECH_FEATURES else CODE


def encode_media_shard(
    shard: Path, stream: str, tokenizers: LoadedTokenizers, references: ReferenceIndex | None
) -> Encoded:
    """Yield key and array of each medium of a shard, in stored order.

    The result does not depend on other shards: batches hold media of this one only.

    Args:
        shard: Media shard.
        stream: What is encoded of them, see `media_streams`.
        tokenizers: Tokenizers on their device.
        references: In which roles media are used, where only some of them are encoded.

    Raises:
        OmniError: If a medium is damaged.
    """
    media = _read_media(shard, _make_key_filter(stream, tokenizers, references))
    if stream in (IMAGE, REQUEST_IMAGE):
        own = tokenizers.image.image_size
        size = tokenizers.request_size if stream == REQUEST_IMAGE else own
        return _encode_images(media, tokenizers, size)
    if stream == SPEECH:
        return _encode_speech(media, tokenizers)
    if stream == SPEECH_FEATURES and tokenizers.continuous_speech is not None:
        return _encode_speech_features(media, tokenizers.continuous_speech)
    return _encode_files(media, tokenizers.files[stream])


def _make_key_filter(
    stream: str, tokenizers: LoadedTokenizers, references: ReferenceIndex | None
) -> Callable[[str], bool] | None:
    """Return which keys are encoded; None for all."""
    roles = {REQUEST_IMAGE: IN_REQUEST, SPEECH_FEATURES: IN_REQUEST}
    if tokenizers.has_two_image_sizes:
        roles[IMAGE] = IN_ANSWER
    if references is None or stream not in roles:
        return None
    role, modality = roles[stream], SPEECH if stream == SPEECH_FEATURES else IMAGE
    return lambda key: bool(references.roles(modality, key) & role)


def _read_media(
    shard: Path, is_wanted: Callable[[str], bool] | None
) -> Iterator[tuple[str, bytes]]:
    for key, files in read_shard(shard):
        if is_wanted is None or is_wanted(key):
            yield key, find_medium_file(files, key, shard)


def _encode_images(media: Media, tokenizers: LoadedTokenizers, size: int) -> Encoded:
    tokenizer = tokenizers.image
    batch = max(1, min(BATCH, BATCH * tokenizer.image_size**2 // size**2))

    def decode_pictures() -> Iterator[tuple[list[str], Tensor]]:
        for group in split_into_groups(media, batch):
            pictures = [
                image_to_tensor(center_crop_and_resize(read_image(content, name=key), size))
                for key, content in group
            ]
            yield [key for key, _ in group], torch.stack(pictures)

    def compute(decoded: tuple[list[str], Tensor]) -> ComputedBatch:
        keys, pictures = decoded
        pixels = send_to_device(pictures, tokenizers.device)
        with tokenizers.image_autocast():
            codes = tokenizer.encode(pixels)
        return ComputedBatch(keys, [(list(range(len(keys))), codes)])

    yield from encode_in_batches(decode_pictures(), compute, CODE)


def _encode_speech(media: Media, tokenizers: LoadedTokenizers) -> Encoded:
    tokenizer, device = tokenizers.speech, tokenizers.device
    rate = tokenizer.sample_rate
    # on a CPU the codes of a batch may differ from those of its clips, and it is not faster
    window = 1 if device.type == "cpu" else BATCH

    def decode_clips() -> Iterator[tuple[list[str], list[Tensor]]]:
        for group in split_into_groups(media, window):
            waves = [
                tokenizer.pad_last_frame(
                    torch.from_numpy(read_audio(content, sample_rate=rate, name=key))[None]
                )
                for key, content in group
            ]
            yield [key for key, _ in group], waves

    def compute(decoded: tuple[list[str], list[Tensor]]) -> ComputedBatch:
        keys, waves = decoded
        parts = [
            (indices, send_to_device(torch.cat([waves[index] for index in indices]), device))
            for indices in group_by_length(waves)
        ]
        codes = [(at, tokenizer.encode(wave, sample_rate=rate)) for at, wave in parts]
        return ComputedBatch(keys, codes)

    yield from encode_in_batches(decode_clips(), compute, CODE)


def _encode_speech_features(media: Media, encoder: SpeechFeatureEncoder) -> Encoded:
    for key, content in media:
        wave = torch.from_numpy(read_audio(content, sample_rate=SAMPLE_RATE, name=key))
        yield key, encoder.encode(wave, name=key).astype(FEATURE)


def _encode_files(media: Media, tokenizer: FileTokenizer) -> Encoded:
    for key, content in media:
        yield key, np.array(tokenizer.encode(content), dtype=CODE)
