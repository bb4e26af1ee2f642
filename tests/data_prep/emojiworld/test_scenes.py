"""Scenes: what is said about them is what is drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from data_prep.emojiworld.lexicon import BACKGROUNDS, INKS
from data_prep.emojiworld.scene_text import SceneContent
from data_prep.emojiworld.scenes import SceneParameters, draw_scenes, render_scene
from data_prep.emojiworld.splits import HoldOut
from data_prep.emojiworld.sprites import SpriteSheet
from data_prep.sources import Sources
from lightning_omni.errors import OmniError

WORLD = SceneParameters(
    objects=("cat", "fish", "house", "tree", "scissors"),
    inks=("red", "blue"),
    backgrounds=("white", "pink"),
    styles=("openmoji",),
    families=("ink", "one", "count", "pair"),
    image_size=64,
    sprite_size=(42, 50),
    jitter=6,
)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    sources = Sources(tmp_path_factory.mktemp("cache"), online=False)
    return SpriteSheet.load(("openmoji",), sources, use_glyphs=False)


def draw(sprites, count, *, salt="x", taken=None, held=(), wanted="train"):
    return list(
        draw_scenes(
            WORLD,
            sprites,
            HoldOut(frozenset(held)),
            wanted=wanted,
            salt=salt,
            count=count,
            taken=set() if taken is None else taken,
        )
    )


def test_scenes_are_the_same_each_time_and_never_twice(sprites):
    scenes = draw(sprites, 80)
    assert scenes == draw(sprites, 80)
    assert len({s.pixel_key() for s in scenes}) == 80
    assert {s.content.family for s in scenes} == {"ink", "one", "count", "pair"}


def test_a_second_split_repeats_no_picture_of_the_first(sprites):
    taken = set()
    first, second = draw(sprites, 60, taken=taken), draw(sprites, 60, salt="y", taken=taken)
    assert not {s.pixel_key() for s in first} & {s.pixel_key() for s in second}


def test_a_world_that_is_used_up_says_so(sprites):
    with pytest.raises(OmniError, match="too few distinct 'comp' scenes"):
        draw(sprites, 1, wanted="comp")


def test_only_held_out_scenes_come_where_they_are_wanted(sprites):
    held = {("ink", "cat", "red"), ("pair", "cat", "fish")}
    for scene in draw(sprites, 20, held=held, wanted="comp"):
        assert held & set(scene.content.combination_keys())
    for scene in draw(sprites, 60, held=held):
        assert not held & set(scene.content.combination_keys())


def test_pixels_show_background_ink_count_and_place(sprites):
    for scene in draw(sprites, 60):
        c = scene.content
        png = render_scene(scene, sprites, 64)
        assert png == render_scene(scene, sprites, 64)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
        back = np.array(BACKGROUNDS[c.background])
        covered = scene.placed
        outside = np.ones((64, 64), dtype=bool)
        for p in covered:
            assert p.x >= 0
            assert p.y >= 0
            assert max(p.x, p.y) + p.size <= 64
            outside[p.y : p.y + p.size, p.x : p.x + p.size] = False
            inside = pixels[p.y : p.y + p.size, p.x : p.x + p.size]
            assert (inside != back).any()
        assert (pixels[outside] == back).all()
        assert len(scene.placed) == (2 if c.family == "pair" else c.count)
        if c.ink:
            wanted = np.array([int(INKS[c.ink][i : i + 2], 16) for i in (1, 3, 5)])
            assert (pixels == wanted).all(-1).any()
        if c.relation:
            first, second = scene.placed
            axis, sign = {
                "left of": (0, 1),
                "right of": (0, -1),
                "above": (1, 1),
                "below": (1, -1),
            }[c.relation]
            gap = (second.x - first.x, second.y - first.y)[axis]
            assert gap * sign >= first.size // 2


@pytest.mark.parametrize(
    ("content", "caption", "answers"),
    [
        (
            SceneContent("ink", ("owl",), "pink", ink="red"),
            "a red owl on a pink background",
            {"owl", "pink", "red"},
        ),
        (
            SceneContent("count", ("cat",), "white", count=3),
            "three cats on a white background",
            {"three", "white"},
        ),
        (
            SceneContent("count", ("cat",), "white", count=1),
            "one cat on a white background",
            {"one", "white"},
        ),
        (
            SceneContent("pair", ("apple", "owl"), "gray", relation="left of"),
            "an apple to the left of an owl",
            {"apple", "owl"},
        ),
    ],
)
def test_english_is_correct(content, caption, answers):
    assert content.caption() == caption
    assert {q.answer for q in content.questions()} == answers
    for question in content.questions():
        assert question.answer in question.sentence or question.kind == "count"
