"""Samples with a picture and no sound: drawing, describing and answering in writing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.collection import Collection, Media, image, make_sample, say, text
from data_prep.emojiworld.scene_text import Question
from data_prep.emojiworld.scenes import Scene, render
from data_prep.emojiworld.splits import digest
from data_prep.emojiworld.sprites import SpriteSheet

_TASKS_OF_SPLIT = {
    "train": ("t2i", "caption", "vqa"),
    "val": ("t2i", "caption", "vqa"),
    "test_iid": ("t2i", "caption", "vqa"),
    "test_comp": ("t2i", "caption", "vqa"),
    "test_style": ("caption", "vqa"),  # the words do not tell the style, so nothing to draw
    "test_xmodal": (),  # asked aloud only
}


def scene_media(scene: Scene, sprites: SpriteSheet, image_size: int) -> Media:
    """Build the picture of a scene, drawn when it is written."""
    source, licence = sprites.licence(scene.placed[0].look)
    return Media(
        key=f"scene-{digest(scene.name())[:20]}",
        modality="image",
        extension="png",
        info={"caption": scene.content.caption(), "source": source, "licence": licence},
        load=functools.partial(render, scene, sprites, image_size),
    )


def add_scene(collection: Collection, split: str, scene: Scene, medium: Media) -> None:
    """Add what a split asks about a scene in writing."""
    tasks = _TASKS_OF_SPLIT[split]
    meta = scene.meta()
    caption = scene.content.caption()
    if "t2i" in tasks:
        add_drawing(collection, split, caption, medium, meta)
    if "caption" in tasks:
        add_caption(collection, split, medium, caption, meta)
    if "vqa" in tasks:
        for question in scene.content.questions():
            add_question(collection, split, medium, question, meta)


def add_drawing(
    collection: Collection, split: str, prompt: str, medium: Media, meta: dict[str, Any]
) -> None:
    """Add a t2i sample."""
    turns = (say("user", text(prompt)), say("assistant", image(medium)))
    collection.add(split, make_sample("t2i", *turns, meta=meta), medium)


def add_caption(
    collection: Collection, split: str, medium: Media, caption: str, meta: dict[str, Any]
) -> None:
    """Add a caption sample."""
    turns = (say("user", image(medium)), say("assistant", text(caption)))
    collection.add(split, make_sample("caption", *turns, meta=meta), medium)


def add_question(
    collection: Collection, split: str, medium: Media, question: Question, meta: dict[str, Any]
) -> None:
    """Add a vqa sample with the bare answer."""
    turns = (
        say("user", text(question.text), image(medium)),
        say("assistant", text(question.answer)),
    )
    told = {"question": question.text, "answer": question.answer, "kind": question.kind}
    collection.add(split, make_sample("vqa", *turns, meta={**meta, **told}), medium)


def add_easy_vqa(collection: Collection, folder: Path, *, val_of: int) -> None:
    """Add easy-VQA with its official test split; one training image in `val_of` goes to val."""
    import json

    for official, split in (("train", "train"), ("test", "test_iid")):
        rows: Sequence[tuple[str, str, int]] = json.loads(
            (folder / "data" / official / "questions.json").read_text("utf-8")
        )
        for asked, answer, number in rows:
            path = folder / "data" / official / "images" / f"{number}.png"
            is_val = split == "train" and number % val_of == 0
            medium = Media(
                key=f"easyvqa-{official}-{number}",
                modality="image",
                extension="png",
                info={"caption": "", "source": "easy-vqa", "licence": "MIT"},
                load=path.read_bytes,
            )
            question = Question(asked.rstrip("?"), answer, f"it is {answer}", "easyvqa")
            where = "val" if is_val else split
            add_question(collection, where, medium, question, {"set": "easyvqa"})
