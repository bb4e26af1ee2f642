"""Random scenes of known content, and their rendering."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_prep.emojiworld.lexicon import BACKGROUNDS, is_plural_only
from data_prep.emojiworld.scene_text import RELATIONS, SceneContent
from data_prep.emojiworld.splits import HoldOut
from data_prep.emojiworld.sprites import SpriteSheet
from data_prep.hashing import seeded_rng
from lightning_omni.errors import OmniError

_MAX_COUNT = 4
_MAX_DRAWS_PER_SCENE = 400


@dataclass(frozen=True, slots=True)
class PlacedSprite:
    """A sprite on the canvas.

    Attributes:
        look: Art style or ink.
        word: Object name.
        x: Column of the left edge in pixels.
        y: Row of the top edge in pixels.
        size: Side in pixels.
    """

    look: str
    word: str
    x: int
    y: int
    size: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene before rendering.

    Attributes:
        content: Content that captions and questions are made from.
        style: Art style, or "silhouette" if it has an ink.
        placed: Sprites in drawing order.
    """

    content: SceneContent
    style: str
    placed: tuple[PlacedSprite, ...]

    def meta(self) -> dict[str, Any]:
        """Return the metadata of samples, which evaluation uses."""
        c = self.content
        return {
            "set": "scene",
            "family": c.family,
            "objects": list(c.objects),
            "ink": c.ink,
            "background": c.background,
            "count": c.count,
            "relation": c.relation,
            "style": self.style,
            "keys": [list(key) for key in c.combination_keys()],
            "caption": c.caption(),
        }

    def pixel_key(self) -> str:
        """Return a string that determines the pixels."""
        sprites = ";".join(f"{p.look},{p.word},{p.x},{p.y},{p.size}" for p in self.placed)
        return f"{self.content.background}|{sprites}"


@dataclass(frozen=True, slots=True)
class SceneParameters:
    """Parameters of random scenes.

    Attributes:
        objects: Object names.
        inks: Colours of silhouettes.
        backgrounds: Background colours.
        styles: Art styles.
        families: Families of scenes, drawn uniformly; repeat one to draw it more often.
        image_size: Side of the image in pixels.
        sprite_size: Smallest and largest side of a single object in pixels.
        jitter: Largest distance of its centre from the image centre in pixels.
    """

    objects: tuple[str, ...]
    inks: tuple[str, ...]
    backgrounds: tuple[str, ...]
    styles: tuple[str, ...]
    families: tuple[str, ...]
    image_size: int
    sprite_size: tuple[int, int]
    jitter: int


def draw_scenes(
    world: SceneParameters,
    sprites: SpriteSheet,
    hold_out: HoldOut,
    *,
    wanted: str,
    only_objects: Sequence[str] = (),
    salt: str,
    count: int,
    taken: set[str],
) -> Iterator[Scene]:
    """Yield random scenes, all distinct.

    Args:
        world: Parameters of the scenes.
        sprites: Sprites of the objects.
        hold_out: Held-out combinations.
        wanted: Subset the scenes must belong to; see `HoldOut.subset_of_keys`.
        only_objects: Object names to draw from; empty for all.
        salt: Seed of the random numbers.
        count: Number of scenes.
        taken: Names of all scenes so far, updated, so that no picture is in two splits.

    Raises:
        OmniError: If the world has too few distinct scenes.
    """
    made = 0
    for i in range(count * _MAX_DRAWS_PER_SCENE):
        if made == count:
            return
        scene = _draw_scene(world, sprites, seeded_rng(salt, i), only_objects)
        if (
            hold_out.subset_of_keys(scene.content.combination_keys()) == wanted
            and scene.pixel_key() not in taken
        ):
            taken.add(scene.pixel_key())
            made += 1
            yield scene
    if made < count:
        raise OmniError(
            f"the world has too few distinct '{wanted}' scenes for {salt}: got {made}, wanted "
            f"{count}; ask for fewer or allow more jitter"
        )


def render_scene(scene: Scene, sprites: SpriteSheet, image_size: int) -> bytes:
    """Draw a scene and return it as PNG."""
    color = BACKGROUNDS[scene.content.background]
    canvas = Image.new("RGBA", (image_size, image_size), (*color, 255))
    for p in scene.placed:
        canvas.alpha_composite(sprites.get_sprite(p.look, p.word, p.size), (p.x, p.y))
    png = io.BytesIO()
    canvas.convert("RGB").save(png, "PNG", optimize=False, compress_level=6)
    return png.getvalue()


def _draw_scene(
    world: SceneParameters, sprites: SpriteSheet, rng: random.Random, only_objects: Sequence[str]
) -> Scene:
    family = rng.choice(world.families)
    background = rng.choice(world.backgrounds)
    style = rng.choice(world.styles)
    words = [
        w
        for w in (only_objects or world.objects)
        if sprites.has_sprite(style, w) and not (family == "count" and is_plural_only(w))
    ]
    word = rng.choice(words)
    if family == "pair":
        other = rng.choice([w for w in world.objects if w != word and sprites.has_sprite(style, w)])
        relation = rng.choice(RELATIONS)
        content = SceneContent("pair", (word, other), background, relation=relation)
        return Scene(content, style, _place_sprite_pair(world, rng, style, content))
    if family == "count":
        content = SceneContent("count", (word,), background, count=rng.randint(1, _MAX_COUNT))
        return Scene(content, style, _place_sprite_copies(world, rng, style, content))
    if family == "ink":
        ink = rng.choice([ink for ink in world.inks if ink != background])
        content = SceneContent("ink", (word,), background, ink=ink)
        return Scene(content, "silhouette", _place_sprite(world, rng, ink, word))
    return Scene(
        SceneContent("one", (word,), background), style, _place_sprite(world, rng, style, word)
    )


def _place_sprite(
    world: SceneParameters, rng: random.Random, look: str, word: str
) -> tuple[PlacedSprite, ...]:
    size = rng.randint(*world.sprite_size)
    free = world.image_size - size
    reach = min(world.jitter, free // 2)
    x, y = (free // 2 + rng.randint(-reach, reach) for _ in range(2))
    return (PlacedSprite(look, word, x, y, size),)


def _place_sprite_copies(
    world: SceneParameters, rng: random.Random, look: str, content: SceneContent
) -> tuple[PlacedSprite, ...]:
    """Place the copies in different quarters of the canvas."""
    half = world.image_size // 2
    slack = min(3, world.jitter // 2)
    size = half - 3
    quarters = rng.sample([(0, 0), (half, 0), (0, half), (half, half)], content.count)
    return tuple(
        PlacedSprite(
            look, content.objects[0], x + rng.randint(0, slack), y + rng.randint(0, slack), size
        )
        for x, y in sorted(quarters)
    )


def _place_sprite_pair(
    world: SceneParameters, rng: random.Random, look: str, content: SceneContent
) -> tuple[PlacedSprite, ...]:
    half = world.image_size // 2
    size = half - 2
    reach = min(6, world.jitter)
    first_is_low = content.relation in ("left of", "above")
    along = (0, half) if first_is_low else (half, 0)
    placed = []
    for word, start in zip(content.objects, along, strict=True):
        a = start + rng.randint(0, 2)
        b = half // 2 + rng.randint(-reach, reach)
        x, y = (a, b) if content.relation in ("left of", "right of") else (b, a)
        placed.append(PlacedSprite(look, word, x, y, size))
    return tuple(placed)
