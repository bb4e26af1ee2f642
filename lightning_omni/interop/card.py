"""Model card and checksums of an exported folder."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE, file_checksums, write_checksums
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE, fingerprint
from lightning_omni.recipe import find_config

CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
LIBRARY_LINE = "library_name: lightning_omni"
"""Line of every card of this package."""
_HEAD = f"---\n{LIBRARY_LINE}\ntags: [masked-diffusion]\n---\n\n"
_SECTION = "\n## This export\n"


def read_card(model: Path) -> str:
    """Return a folder's model card without the section that an earlier export added."""
    card = model / CARD_FILE
    if not card.is_file():
        return (
            f"{_HEAD}# A lightning_omni model\n\nThe exported folder had no card: its training "
            "data and their licences are unknown.\n"
        )
    text = card.read_text("utf-8").split(_SECTION)[0]
    return text if text.startswith("---\n") else _HEAD + text


def write_card(model: Path, folder: Path, *, layout: list[str]) -> None:
    """Write `README.md` and `SHA256SUMS` into an export that is otherwise complete.

    Args:
        model: exported folder; its card, the recipe of its run and its evaluation are copied.
        folder: folder of the export.
        layout: lines that describe how weights are stored.
    """
    recipe = find_config(model.resolve().parent)
    if recipe is not None:
        (folder / RECIPE_FILE).write_bytes(recipe.read_bytes())
    recipe_line = f"`{RECIPE_FILE}`" if recipe is not None else "not beside the exported folder"
    files = [f"- `{name}`: {digest}" for name, digest in file_checksums(folder).items()]
    lines = [
        *layout,
        "",
        f"Recipe of the last training: {recipe_line}.",
        "",
        "### Evaluation",
        "",
        *_evaluation_lines(model),
        "",
        "### Files",
        "",
        f"SHA-256 of every file but this one, whose checksum is in `{SUMS_FILE}`:",
        "",
        *files,
    ]
    text = f"{read_card(model).rstrip()}\n{_SECTION}\n" + "\n".join(lines) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    write_checksums(folder)


def _evaluation_lines(model: Path) -> list[str]:
    """Return the evaluation's table beside the folder, if it is of these very weights."""
    results = model.resolve().parent / "eval" / "results.json"
    table = results.with_suffix(".md")
    if (
        results.is_file()
        and table.is_file()
        and (model / WEIGHTS_FILE).is_file()
        and (model / CONFIG_FILE).is_file()
    ):
        try:
            measured = json.loads(results.read_text("utf-8")).get("fingerprint")
        except (ValueError, AttributeError) as error:
            raise OmniError(f"'{results}' is damaged ({error}); evaluate again") from error
        if measured == fingerprint(model):
            return [table.read_text("utf-8").strip()]
    return ["Not measured beside the exported folder."]
