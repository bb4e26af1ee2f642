"""Raster sprites of the objects: full-colour art and one-colour silhouettes."""

from __future__ import annotations

import io
import logging

import resvg_py
from PIL import Image

from data_prep.emojiworld.emoji_art import ArtStyle, load_style
from data_prep.emojiworld.lexicon import INKS, OBJECTS
from data_prep.sources import SourceError, Sources

log = logging.getLogger(__name__)

_RASTER = 128


def rasterize(svg: str, size: int) -> Image.Image:
    """Render an SVG onto a transparent square of `size` pixels."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def crop_to_visible_square(image: Image.Image) -> Image.Image:
    """Crop to the visible pixels and centre them on a square, so that objects have equal size."""
    box = image.getbbox()
    if box is None:
        return image
    cut = image.crop(box)
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


class SpriteSheet:
    """Sprites of the objects, rendered on first use.

    A look is the name of an art style or of an ink.

    Args:
        styles: Art styles by name.
        glyphs: One-colour glyphs for silhouettes; None fills the outline of the first art style.
    """

    def __init__(self, styles: dict[str, ArtStyle], glyphs: ArtStyle | None) -> None:
        self.styles = styles
        self._glyphs = glyphs
        self._sprites: dict[tuple[str, str], Image.Image] = {}
        self._resized: dict[tuple[str, str, int], Image.Image] = {}

    @classmethod
    def load(cls, names: tuple[str, ...], sources: Sources, *, use_glyphs: bool) -> SpriteSheet:
        """Load the available styles; OpenMoji if none is available.

        Raises:
            SourceError: If OpenMoji is not available either.
        """
        styles: dict[str, ArtStyle] = {}
        for name in names:
            try:
                styles[name] = load_style(name, sources)
            except SourceError as error:
                sources.provenance.record_fallback(f"art style '{name}' is left out: {error}")
        if not styles:
            styles["openmoji"] = load_style("openmoji", sources)
        glyphs = None
        if use_glyphs:
            try:
                glyphs = load_style("glyphs", sources)
            except SourceError as error:
                sources.provenance.record_fallback(f"silhouettes are filled outlines: {error}")
        return cls(styles, glyphs)

    def has_sprite(self, look: str, word: str) -> bool:
        """Tell whether a look includes an object."""
        return look in INKS or OBJECTS[word] in self.styles[look].svgs

    def get_sprite(self, look: str, word: str, size: int) -> Image.Image:
        """Return the sprite of an object, `size` pixels square."""
        if (look, word, size) not in self._resized:
            resized = self._full_size_sprite(look, word).resize(
                (size, size), Image.Resampling.LANCZOS
            )
            self._resized[look, word, size] = resized
        return self._resized[look, word, size]

    def source_and_licence(self, look: str) -> tuple[str, str]:
        """Return source and licence of a look."""
        style = self.styles.get(look) or self._glyphs or next(iter(self.styles.values()))
        return style.source, style.licence

    def _full_size_sprite(self, look: str, word: str) -> Image.Image:
        if (look, word) not in self._sprites:
            drawn = (
                self._render_silhouette(look, word)
                if look in INKS
                else self._render_art(look, word)
            )
            self._sprites[look, word] = crop_to_visible_square(drawn)
        return self._sprites[look, word]

    def _render_art(self, look: str, word: str) -> Image.Image:
        return rasterize(self.styles[look].svgs[OBJECTS[word]], _RASTER)

    def _render_silhouette(self, ink: str, word: str) -> Image.Image:
        if self._glyphs is not None and OBJECTS[word] in self._glyphs.svgs:
            svg = self._glyphs.svgs[OBJECTS[word]].replace("currentColor", INKS[ink])
            return rasterize(svg, _RASTER)
        art = self._render_art(next(iter(self.styles)), word)
        filled = Image.new("RGBA", art.size, INKS[ink])
        filled.putalpha(art.getchannel("A"))
        return filled
