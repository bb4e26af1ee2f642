"""What was heard lies beside its sample and comes back to the part it was heard of."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from lightning_omni.data.shards import parse_sample
from lightning_omni.data.speech_feature_files import feature_files, user_speech_parts
from lightning_omni.errors import OmniError
from lightning_omni.types import Part, Sample, Turn

SAMPLE = Sample(
    "key",
    "chat",
    (
        Turn("user", (Part("speech", codes=(1,)), Part("image", codes=(2,)))),
        Turn("assistant", (Part("speech", codes=(3,)),)),
        Turn("user", (Part("text", text="and"), Part("speech", codes=(4,)))),
        Turn("assistant", (Part("text", text="yes"),)),
    ),
)
HEARD = [np.full((k, 5), k, dtype=np.float16) for k in (2, 3)]


def parsed(members):
    files = {"json": json.dumps(SAMPLE.to_json()).encode(), **members}
    return parse_sample("key", files, Path("shard.tar"))


def test_every_part_that_the_user_says_gets_its_own_frames():
    back = parsed(feature_files(HEARD))
    assert back == SAMPLE
    for part, frames in zip(user_speech_parts(back), HEARD, strict=True):
        np.testing.assert_array_equal(part.features, frames)
    answered = [p for t in back.turns if t.role == "assistant" for p in t.parts]
    assert all(part.features is None for part in answered)


def test_a_sample_without_frames_is_as_it_was():
    assert all(part.features is None for part in user_speech_parts(parsed({})))


def as_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"1.npy": None}, "holds 0.npy, wanted 0.npy, 1.npy"),
        ({"2.npy": b""}, "wanted 0.npy, 1.npy"),
        ({"1.npy": b"nonsense"}, "'key.1.npy' of 'shard.tar' is damaged"),
        ({"1.npy": as_npy(np.array([object()]))}, "is damaged"),
        ({"1.npy": as_npy(np.zeros(3))}, "is float64 of shape \\(3,\\), wanted floats"),
        ({"1.npy": as_npy(np.zeros((3, 5), dtype=int))}, "is int64 of shape"),
    ],
)
def test_frames_that_are_damaged_missing_or_too_many_are_named(change, words):
    members = {**feature_files(HEARD), **change}
    with pytest.raises(OmniError, match=words):
        parsed({name: content for name, content in members.items() if content is not None})
