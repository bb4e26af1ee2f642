"""The pages name files that exist, and the figure is the one that its script draws."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"(?:\]\(|srcset=\"|src=\")([^)#\":]+)(?:#[^)\"]*)?[)\"]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_finds_it(page):
    missing = [name for name in LINK.findall(page.read_text()) if not (page.parent / name).exists()]
    assert missing == []


def test_the_figure_is_what_its_script_draws():
    script = ROOT / "docs" / "assets" / "draw_architecture.py"
    drawn = runpy.run_path(str(script))
    for name, theme in drawn["THEMES"].items():
        committed = script.with_name(f"architecture-{name}.svg").read_text()
        assert committed == drawn["figure"](theme)


def test_every_file_that_moved_is_where_the_page_says():
    rows = re.findall(
        r"^\| `([^`]+)` \| `([^`]+\.\w+)` \|$", (ROOT / "docs/moved.md").read_text(), re.M
    )
    files = [(old, new) for old, new in rows if "/" in old and "/" in new]
    assert len(files) > 100
    assert [new for _, new in files if not (ROOT / new).exists()] == []
    assert [old for old, _ in files if (ROOT / old).exists()] == []
