"""Builds EmojiWorld: samples of the nine tasks from scenes, speech and facts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.collection import Collection
from data_prep.emojiworld import facts as fact_sources
from data_prep.emojiworld.emoji_art import ArtStyle, load_concepts, load_style
from data_prep.emojiworld.facts import Fact
from data_prep.emojiworld.icons import add_icon_samples, select_well_named
from data_prep.emojiworld.picture_samples import (
    add_easy_vqa_samples,
    add_scene_samples,
    scene_media_file,
)
from data_prep.emojiworld.scenes import draw_scenes
from data_prep.emojiworld.sentences import wordnet_sentences
from data_prep.emojiworld.splits import HoldOut
from data_prep.emojiworld.spoken_samples import Pictures, SpokenSampleBuilder
from data_prep.emojiworld.sprites import SpriteSheet
from data_prep.hashing import choose_share_by_hash, sort_by_hash
from data_prep.leak_checks import HeldOutContent, check_splits
from data_prep.presets import Preset, VoiceRoles
from data_prep.sources import SourceError, Sources
from data_prep.speech.clip_cache import ClipCache
from data_prep.speech.human_recordings import load_human_recordings
from data_prep.speech.synthesizers import Synthesizers

log = logging.getLogger(__name__)

_EASY_VQA_VAL_BUCKETS = 80


@dataclass
class BuiltWorld:
    """Result of a build.

    Attributes:
        collection: Samples and media files.
        facts: Entries of the manifest.
    """

    collection: Collection
    facts: dict[str, Any] = field(default_factory=dict)


def build_world(preset: Preset, sources: Sources) -> BuiltWorld:
    """Build all samples of a preset and check the split rules.

    Raises:
        OmniError: If a source without fallback is missing or a split rule is broken.
    """
    collection = Collection()
    sprites = SpriteSheet.load(
        (*preset.world.styles, *preset.test_styles), sources, use_glyphs=preset.use_glyphs
    )
    preset = _keep_loaded_styles(preset, sprites)
    world = preset.world
    hold_out = HoldOut.choose_combinations(
        objects=world.objects,
        inks=world.inks if "ink" in world.families else (),
        backgrounds=world.backgrounds,
        counts=("2", "3", "4") if "count" in world.families else (),
        has_pairs="pair" in world.families,
        share=preset.hold_out,
    )
    synthesizers, voices = _set_up_voices(preset.voices, sources)
    facts = _load_facts(preset, sources)
    spoken_facts = _choose_spoken_facts(preset, facts)
    rules = HeldOutContent(
        hold_out=hold_out,
        styles=frozenset(preset.test_styles),
        voices=frozenset(voices.held_out),
        text_only_facts=choose_share_by_hash(spoken_facts, preset.text_only_facts, "text only"),
        silent_objects=choose_share_by_hash(world.objects, preset.silent_objects, "silent"),
    )
    pictures = _draw_pictures(preset, sprites, rules)
    for split, drawn in pictures.items():
        for scene, medium in drawn:
            add_scene_samples(collection, split, scene, medium)
    clips = ClipCache(synthesizers, sources.cache / "speech")
    spoken = SpokenSampleBuilder(replace(preset, voices=voices), rules, clips, collection)
    spoken.plan_samples(pictures, facts, spoken_facts, _split_sentences(preset, sources))
    clips.synthesize_requested()
    spoken.add_samples(load_human_recordings(sources) if preset.has_human_speech else [])
    _add_icons_and_easy_vqa(preset, sources, collection, hold_out)
    check_splits(collection, rules)
    return BuiltWorld(collection, _manifest_facts(preset, voices, rules, sources))


def _keep_loaded_styles(preset: Preset, sprites: SpriteSheet) -> Preset:
    """Keep the styles that were loaded; OpenMoji if none was."""
    styles = tuple(s for s in preset.world.styles if s in sprites.styles)
    if not styles:
        styles = ("openmoji",)
    tests = tuple(s for s in preset.test_styles if s in sprites.styles and s not in styles)
    return replace(preset, world=replace(preset.world, styles=styles), test_styles=tests)


def _set_up_voices(voices: VoiceRoles, sources: Sources) -> tuple[Synthesizers, VoiceRoles]:
    wanted = {*voices.inputs, *voices.rare, *voices.held_out}
    synthesizers, chosen = Synthesizers.find_engines(wanted, sources)
    inputs = tuple(chosen[v] for v in voices.inputs)
    return synthesizers, VoiceRoles(
        targets=tuple(chosen[v] for v in voices.targets),
        answers=tuple(chosen[v] for v in voices.answers),
        inputs=inputs,
        rare=tuple(chosen[v] for v in voices.rare if chosen[v] not in inputs),
        held_out=tuple(chosen[v] for v in voices.held_out),
    )


def _load_facts(preset: Preset, sources: Sources) -> list[Fact]:
    found: list[Fact] = []
    for name in preset.facts:
        try:
            found += _load_named_facts(name, sources)
        except SourceError as error:
            sources.provenance.record_fallback(f"facts '{name}' are left out: {error}")
    return list({fact.question: fact for fact in reversed(found)}.values())


def _load_named_facts(name: str, sources: Sources) -> list[Fact]:
    if name == "tiny":
        return fact_sources.sums_from_one(2) + fact_sources.everyday_facts()[:8]
    if name == "everyday, in writing":
        return [replace(fact, can_be_spoken=False) for fact in fact_sources.everyday_facts()]
    if name == "small sums":
        return fact_sources.sums_from_one(4)
    if name == "sums":
        return fact_sources.sums_from_zero(20)
    if name == "everyday":
        return fact_sources.everyday_facts()
    if name == "capitals":
        return fact_sources.capital_facts()
    if name == "countries":
        return fact_sources.country_facts(sources.fetch_npm_folder("countries"))
    words = [c.label for c in load_concepts(sources) if c.label.isalpha()]
    return fact_sources.definition_facts(words, _find_wordnet_folder(sources))


def _choose_spoken_facts(preset: Preset, facts: list[Fact]) -> list[str]:
    """Choose the questions that are asked by speech, by hash."""
    topics = ("sum", "capital", "color", "kind")
    candidates = [f.question for f in facts if f.can_be_spoken and f.topic in topics]
    return sort_by_hash(candidates, "spoken")[: preset.facts_spoken]


def _split_sentences(preset: Preset, sources: Sources) -> dict[str, list[str]]:
    """Divide WordNet's sentences among the splits in hash order."""
    if not preset.sentences:
        return {}
    try:
        left = wordnet_sentences(_find_wordnet_folder(sources), min_words=3, max_words=9)
    except SourceError as error:
        sources.provenance.record_fallback(f"WordNet's sentences are left out: {error}")
        return {}
    shared: dict[str, list[str]] = {}
    for split, count in preset.sentences.items():
        shared[split], left = left[:count], left[count:]
    return shared


def _find_wordnet_folder(sources: Sources) -> Path:
    return sources.fetch_deb_folder("wordnet") / "usr" / "share" / "wordnet"


def _draw_pictures(preset: Preset, sprites: SpriteSheet, rules: HeldOutContent) -> Pictures:
    taken: set[str] = set()
    pictures: Pictures = {}
    for split, count in preset.scenes.items():
        world = preset.world
        if split == "test_style":
            if not preset.test_styles:
                continue
            world = replace(world, styles=preset.test_styles, families=("one",))
        drawn = draw_scenes(
            world,
            sprites,
            rules.hold_out,
            wanted="comp" if split == "test_comp" else "train",
            only_objects=sorted(rules.silent_objects) if split == "test_xmodal" else (),
            salt=f"{preset.name}|{split}",
            count=count,
            taken=taken,
        )
        size = world.image_size
        pictures[split] = [(scene, scene_media_file(scene, sprites, size)) for scene in drawn]
    return pictures


def _add_icons_and_easy_vqa(
    preset: Preset, sources: Sources, collection: Collection, hold_out: HoldOut
) -> None:
    provenance = sources.provenance
    if preset.max_icons:
        try:
            named = select_well_named(load_concepts(sources), hold_out)[: preset.max_icons]
        except SourceError as error:
            provenance.record_fallback(f"icons are left out: {error}")
        else:
            styles = _load_styles(preset.world.styles, sources)
            add_icon_samples(collection, named, styles, _load_styles(preset.test_styles, sources))
    if preset.has_easy_vqa:
        try:
            add_easy_vqa_samples(
                collection, sources.find_pip_folder("easy-vqa"), val_buckets=_EASY_VQA_VAL_BUCKETS
            )
        except SourceError as error:
            provenance.record_fallback(f"easy-VQA is left out: {error}")


def _load_styles(names: tuple[str, ...], sources: Sources) -> list[ArtStyle]:
    return [load_style(name, sources) for name in names]


def _manifest_facts(
    preset: Preset, voices: VoiceRoles, rules: HeldOutContent, sources: Sources
) -> dict[str, Any]:
    held = [list(key) for key in sorted(rules.hold_out.keys)]
    return {
        "preset": preset.name,
        "sources": [sources.provenance.used[n] for n in sorted(sources.provenance.used)],
        "fallbacks": sorted(sources.provenance.fallbacks),
        "voices": {
            "targets": list(voices.targets),
            "answers": list(voices.answers),
            "inputs": [*voices.inputs, *voices.rare],
            "held_out": sorted(rules.voices),
        },
        "styles": {"train": list(preset.world.styles), "held_out": sorted(rules.styles)},
        "world": {
            "objects": list(preset.world.objects),
            "inks": list(preset.world.inks),
            "backgrounds": list(preset.world.backgrounds),
            "families": sorted(set(preset.world.families)),
            "image_size": preset.world.image_size,
        },
        "split_rules": {
            "held_out_combinations": held,
            "silent_objects": sorted(rules.silent_objects),
            "text_only_facts": sorted(rules.text_only_facts),
        },
    }
