"""Emoji of several art styles, as SVG by code point."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.sources import NPM_SOURCES, PIP_SOURCES, SourceError, Sources
from lightning_omni.errors import OmniError

_HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '


@dataclass(frozen=True, slots=True)
class EmojiConcept:
    """An emoji and its name; skin tones and flags are excluded."""

    code_point: str
    label: str


@dataclass(frozen=True, slots=True)
class ArtStyle:
    """An art style.

    Attributes:
        name: Name in presets and metadata.
        licence: Licence of the drawings.
        source: Package they come from.
        svgs: SVG text by code point.
    """

    name: str
    licence: str
    source: str
    svgs: Mapping[str, str] = field(repr=False)


def normalize_code_point(hexcode: str) -> str:
    """Return the code point in lower case without variation selectors, as all styles name it."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def load_concepts(sources: Sources) -> list[EmojiConcept]:
    """Return every emoji with a label, except components, skin tones and flags.

    Raises:
        SourceError: If the labels are not available.
    """
    table = _read_json(sources.fetch_npm_folder("labels") / "en" / "data.json")
    components, flags = 2, 9
    return [
        EmojiConcept(normalize_code_point(e["hexcode"]), str(e["label"]).lower())
        for e in table
        if e.get("group") not in (None, components, flags)
    ]


def load_style(name: str, sources: Sources) -> ArtStyle:
    """Load a style; `openmoji` comes from a Python package, or else from npm.

    Raises:
        SourceError: If the style is not available.
    """
    if name == "openmoji":
        try:
            return _load_openmoji(sources)
        except SourceError as error:
            sources.provenance.record_fallback(f"{error}; OpenMoji comes from npm instead")
    folder = sources.fetch_npm_folder(name)
    source = NPM_SOURCES[name]
    return ArtStyle(name, source.licence, source.name, _load_iconify_svgs(folder, sources))


def _load_openmoji(sources: Sources) -> ArtStyle:
    folder = sources.find_pip_folder("openmoji-pip") / "openmoji" / "svg"
    svgs = _LazyFileDict(
        {normalize_code_point(path.stem): path for path in sorted(folder.glob("*.svg"))}
    )
    source = PIP_SOURCES["openmoji-pip"]
    return ArtStyle("openmoji", source.licence, source.name, svgs)


class _LazyFileDict(dict[str, str]):
    """Dictionary of files that are read when their code point is looked up."""

    def __init__(self, paths: dict[str, Path]) -> None:
        super().__init__(dict.fromkeys(paths, ""))
        self._paths = paths

    def __getitem__(self, code_point: str) -> str:
        return self._paths[code_point].read_text("utf-8")


def _load_iconify_svgs(folder: Path, sources: Sources) -> dict[str, str]:
    """Return SVG by code point of an Iconify set; sets without code points match by slug."""
    icons = _read_json(folder / "icons.json")
    names: dict[str, str] = {}
    if (folder / "chars.json").is_file():
        chars = _read_json(folder / "chars.json")
        names = {normalize_code_point(k): str(v) for k, v in chars.items()}
    if not names:
        names = {c.code_point: _label_to_slug(c.label) for c in load_concepts(sources)}
    found = ((code_point, _find_icon(icons, name)) for code_point, name in names.items())
    return {code_point: svg for code_point, svg in found if svg is not None}


def _find_icon(icons: dict[str, Any], name: str) -> str | None:
    parent = icons.get("aliases", {}).get(name, {}).get("parent")
    icon = icons["icons"].get(name) or icons["icons"].get(parent)
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return f'{_HEAD}width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'


def _label_to_slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")


@cache
def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OmniError(
            f"cannot read {path}: {error}; delete its folder, and the next build downloads it again"
        ) from error
