"""What the metadata of an EmojiWorld sample say: kind of question, facts of the scene."""

from __future__ import annotations

from typing import Any

from lightning_omni.evaluation.emojiworld.captions import Scene, canonical_pair
from lightning_omni.types import Sample


def question_kind(sample: Sample) -> str:
    """Name the group of questions that is known from the question alone."""
    meta = sample.meta
    return str(meta.get("kind") or meta.get("topic") or meta.get("set") or "all")


def is_scene(sample: Sample) -> bool:
    """Tell whether the facts of a composed scene are known."""
    return sample.meta.get("set") == "scene"


def scene_from_meta(meta: dict[str, Any]) -> Scene:
    """Return the facts of a scene in a sample's `meta`."""
    objects, relation = meta["objects"], meta.get("relation")
    if relation is not None:
        pair, relation = canonical_pair(objects[0], relation, objects[1])
        return Scene(pair, meta.get("ink"), meta["background"], 1, relation)
    count = int(meta.get("count") or 1)
    return Scene((objects[0],), meta.get("ink"), meta["background"], count, None)
