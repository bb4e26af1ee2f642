"""Speech features of a sample's user turns, stored beside the sample."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SPEECH
from lightning_omni.types import Part, Sample

Features = NDArray[np.floating[Any]]
_SUFFIX = ".npy"


def user_speech_parts(sample: Sample) -> list[Part]:
    """Return the speech parts of the user's turns, in order."""
    parts = (p for t in sample.turns if t.role == "user" for p in t.parts)
    return [p for p in parts if p.modality == SPEECH]


def feature_files(features: list[Features]) -> dict[str, bytes]:
    """Return the files beside a sample: `N.npy` for the N-th speech part of the user."""
    members = {}
    for n, array in enumerate(features):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        members[f"{n}{_SUFFIX}"] = buffer.getvalue()
    return members


def attach_features(sample: Sample, features: list[Features]) -> Sample:
    """Return the sample with features in each speech part of the user."""
    remaining = iter(features)

    def attach_next(part: Part) -> Part:
        return replace(part, features=next(remaining)) if part.modality == SPEECH else part

    turns = tuple(
        replace(t, parts=tuple(map(attach_next, t.parts))) if t.role == "user" else t
        for t in sample.turns
    )
    return replace(sample, turns=turns)


def read_sample_features(sample: Sample, files: Mapping[str, bytes], path: Location) -> Sample:
    """Return the sample with the features of its files; without such files, the sample itself.

    Raises:
        OmniError: If a file is damaged, missing or superfluous.
    """
    names = sorted(name for name in files if name.endswith(_SUFFIX))
    if not names:
        return sample
    wanted = [f"{n}{_SUFFIX}" for n in range(len(user_speech_parts(sample)))]
    if names != sorted(wanted):
        raise OmniError(
            f"sample '{sample.key}' of '{path}' holds {', '.join(names)}, wanted "
            f"{', '.join(wanted) or 'none'}; delete that folder and encode again"
        )
    return attach_features(
        sample, [_parse_features(files[n], f"{sample.key}.{n}", path) for n in wanted]
    )


def _parse_features(content: bytes, name: str, path: Location) -> Features:
    try:
        features = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise OmniError(f"'{name}' of '{path}' is damaged ({error}); encode again") from error
    if features.ndim != 2 or features.dtype.kind != "f":
        raise OmniError(
            f"'{name}' of '{path}' is {features.dtype} of shape {features.shape}, wanted floats of "
            "shape (K, F); encode again"
        )
    loaded: Features = features
    return loaded
