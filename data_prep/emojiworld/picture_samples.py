"""Samples of images and text: text to image, captions and visual questions."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.collection import Collection
from data_prep.emojiworld.scene_text import SceneQuestion
from data_prep.emojiworld.scenes import Scene, render_scene
from data_prep.emojiworld.sprites import SpriteSheet
from data_prep.hashing import sha1_hex
from data_prep.media_file import MediaFile
from data_prep.samples import image_part, make_sample, make_turn, text_part

_TASKS_OF_SPLIT = {
    "train": ("t2i", "caption", "vqa"),
    "val": ("t2i", "caption", "vqa"),
    "test_iid": ("t2i", "caption", "vqa"),
    "test_comp": ("t2i", "caption", "vqa"),
    "test_style": ("caption", "vqa"),  # captions do not name the style, so there is no t2i
    "test_xmodal": (),  # spoken prompts only
}


def scene_media_file(scene: Scene, sprites: SpriteSheet, image_size: int) -> MediaFile:
    """Return the image of a scene, rendered when it is written."""
    source, licence = sprites.source_and_licence(scene.placed[0].look)
    return MediaFile(
        key=f"scene-{sha1_hex(scene.pixel_key())[:20]}",
        modality="image",
        extension="png",
        info={"caption": scene.content.caption(), "source": source, "licence": licence},
        load=functools.partial(render_scene, scene, sprites, image_size),
    )


def add_scene_samples(collection: Collection, split: str, scene: Scene, medium: MediaFile) -> None:
    """Add the text and image samples of a scene that its split contains."""
    tasks = _TASKS_OF_SPLIT[split]
    meta = scene.meta()
    caption = scene.content.caption()
    if "t2i" in tasks:
        add_t2i_sample(collection, split, caption, medium, meta)
    if "caption" in tasks:
        add_caption_sample(collection, split, medium, caption, meta)
    if "vqa" in tasks:
        for question in scene.content.questions():
            add_vqa_sample(collection, split, medium, question, meta)


def add_t2i_sample(
    collection: Collection, split: str, prompt: str, medium: MediaFile, meta: dict[str, Any]
) -> None:
    """Add a t2i sample."""
    turns = (make_turn("user", text_part(prompt)), make_turn("assistant", image_part(medium)))
    collection.add_sample(split, make_sample("t2i", *turns, meta=meta), medium)


def add_caption_sample(
    collection: Collection, split: str, medium: MediaFile, caption: str, meta: dict[str, Any]
) -> None:
    """Add a caption sample."""
    turns = (make_turn("user", image_part(medium)), make_turn("assistant", text_part(caption)))
    collection.add_sample(split, make_sample("caption", *turns, meta=meta), medium)


def add_vqa_sample(
    collection: Collection,
    split: str,
    medium: MediaFile,
    question: SceneQuestion,
    meta: dict[str, Any],
) -> None:
    """Add a vqa sample, whose answer is the bare answer word."""
    turns = (
        make_turn("user", text_part(question.text), image_part(medium)),
        make_turn("assistant", text_part(question.answer)),
    )
    facts = {"question": question.text, "answer": question.answer, "kind": question.kind}
    collection.add_sample(split, make_sample("vqa", *turns, meta={**meta, **facts}), medium)


def add_easy_vqa_samples(collection: Collection, folder: Path, *, val_buckets: int) -> None:
    """Add easy-VQA; of its training images one in `val_buckets` goes to val."""
    for official, split in (("train", "train"), ("test", "test_iid")):
        rows: Sequence[tuple[str, str, int]] = json.loads(
            (folder / "data" / official / "questions.json").read_text("utf-8")
        )
        for text_, answer, number in rows:
            path = folder / "data" / official / "images" / f"{number}.png"
            is_val = split == "train" and number % val_buckets == 0
            medium = MediaFile(
                key=f"easyvqa-{official}-{number}",
                modality="image",
                extension="png",
                info={"caption": "", "source": "easy-vqa", "licence": "MIT"},
                load=path.read_bytes,
            )
            question = SceneQuestion(text_.rstrip("?"), answer, f"it is {answer}", "easyvqa")
            add_vqa_sample(
                collection, "val" if is_val else split, medium, question, {"set": "easyvqa"}
            )
