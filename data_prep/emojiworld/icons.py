"""Text to image and caption samples of single emoji, in several styles."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator

from PIL import Image

from data_prep.collection import Collection
from data_prep.emojiworld.emoji_art import ArtStyle, EmojiConcept
from data_prep.emojiworld.picture_samples import add_caption_sample, add_t2i_sample
from data_prep.emojiworld.splits import HoldOut
from data_prep.emojiworld.sprites import rasterize
from data_prep.hashing import hash_bucket, sha1_hex
from data_prep.media_file import MediaFile

_SIZE = 64
_MAX_LABEL_WORDS = 4
_TEST_BUCKETS, _VAL_BUCKETS = (
    10,
    60,
)  # one in ten (concept, style) pairs is tested; of the others one in sixty is val


def select_well_named(concepts: list[EmojiConcept], hold_out: HoldOut) -> list[EmojiConcept]:
    """Return concepts with a short plain name that names no held-out combination, in hash order."""
    kept = [
        c
        for c in concepts
        if _is_short_plain_name(c.label) and not _names_held_out_combination(c.label, hold_out)
    ]
    return sorted(kept, key=lambda c: sha1_hex("icon", c.label))


def add_icon_samples(
    collection: Collection,
    concepts: list[EmojiConcept],
    styles: list[ArtStyle],
    test_styles: list[ArtStyle],
) -> None:
    """Add icons; the split is decided by (concept, style), and test styles go to test_style."""
    for style in styles:
        for concept in _concepts_in_style(concepts, style):
            medium = _icon_media_file(concept, style)
            meta = _sample_meta(concept, style)
            split = _choose_split(concept, style)
            add_t2i_sample(collection, split, concept.label, medium, meta)
            add_caption_sample(collection, split, medium, concept.label, meta)
    for style in test_styles:
        for concept in _concepts_in_style(concepts, style):
            medium = _icon_media_file(concept, style)
            add_caption_sample(
                collection, "test_style", medium, concept.label, _sample_meta(concept, style)
            )


def _concepts_in_style(concepts: list[EmojiConcept], style: ArtStyle) -> Iterator[EmojiConcept]:
    return (c for c in concepts if c.code_point in style.svgs)


def _choose_split(concept: EmojiConcept, style: ArtStyle) -> str:
    if hash_bucket("icon", concept.label, style.name, num_buckets=_TEST_BUCKETS) == 0:
        return "test_iid"
    is_val = hash_bucket("icon-val", concept.label, style.name, num_buckets=_VAL_BUCKETS) == 0
    return "val" if is_val else "train"


def _is_short_plain_name(label: str) -> bool:
    return re.fullmatch(r"[a-z' -]+", label) is not None and len(label.split()) <= _MAX_LABEL_WORDS


def _names_held_out_combination(label: str, hold_out: HoldOut) -> bool:
    """Tell whether a label such as "green apple" names a held-out combination."""
    words = set(label.split())
    return any(key[0] == "ink" and words >= set(key[1:]) for key in hold_out.keys)


def _sample_meta(concept: EmojiConcept, style: ArtStyle) -> dict[str, str]:
    return {"set": "icon", "label": concept.label, "style": style.name, "caption": concept.label}


def _icon_media_file(concept: EmojiConcept, style: ArtStyle) -> MediaFile:
    return MediaFile(
        key=f"icon-{sha1_hex(concept.code_point, style.name)[:20]}",
        modality="image",
        extension="png",
        info={"caption": concept.label, "source": style.source, "licence": style.licence},
        load=functools.partial(_draw_png, style, concept.code_point),
    )


def _draw_png(style: ArtStyle, code_point: str) -> bytes:
    canvas = Image.new("RGBA", (_SIZE, _SIZE), (255, 255, 255, 255))
    canvas.alpha_composite(rasterize(style.svgs[code_point], _SIZE))
    png = io.BytesIO()
    canvas.convert("RGB").save(png, "PNG", compress_level=6)
    return png.getvalue()
