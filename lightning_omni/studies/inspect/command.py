"""The `inspect` verb: what a data folder holds, in tables and on a page with pictures and sound."""

from __future__ import annotations

import logging
from html import escape
from importlib import resources
from pathlib import Path
from string import Template as Page

from lightning_omni.argument_checks import check_within
from lightning_omni.data.manifest import MANIFEST, read_manifest
from lightning_omni.data.shards import holds_shards
from lightning_omni.data.storage.locations import Location, parse_location
from lightning_omni.data.storage.read_counts import log_read_counts
from lightning_omni.data.storage.url_reader import read_counts_so_far
from lightning_omni.data.storage.urls import Url
from lightning_omni.files import make_parent_folder
from lightning_omni.studies.inspect.contents import (
    Contents,
    read_media_contents,
    read_task_contents,
)
from lightning_omni.studies.inspect.examples import choose_samples, examples_html, read_media
from lightning_omni.studies.inspect.mixture import (
    TaskShare,
    build_recipe_data,
    compute_task_shares,
    read_first_batches,
)
from lightning_omni.studies.inspect.rows import rows_html
from lightning_omni.studies.report.tables import text_table
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)

_TASK_HEAD = ("task", "split", "samples", "text tokens", "speech codes", "image codes", "speech")
_MEDIA_HEAD = ("media", "split", "files", "MB", "duration")
_MIXTURE_HEAD = ("task", "share", "samples", "share of tokens", "passes over the data")


def inspect_data(
    data: str,
    recipe: Path | None = None,
    out: Path | None = None,
    samples: int = 10,
    limit: int = 2000,
    seed: int = 0,
) -> None:
    """Print what a data folder holds, and write a page with samples and packed rows.

    Args:
        data: Folder or URL written by prep-data, or one of its folders of codes.
        recipe: Recipe of the joint model, whose mixture and packed rows are shown; data that are
            not encoded yet are encoded by its tokenizers.
        out: HTML file to write; None for `inspect.html` in the current folder.
        samples: Number of samples on the page.
        limit: Samples of each task and split that are read to count tokens and seconds; beyond,
            numbers are extrapolated and marked with ~.
        seed: Seed of the choice of samples.

    Raises:
        OmniError: If the folder holds no data, or the recipe does not fit them.
    """
    check_within("samples", samples, 0)
    check_within("limit", limit, 1)
    folder = parse_location(data)
    read_manifest(folder)
    prepared = folder if holds_shards(folder / "tasks") else folder.parent.parent
    sections = [f"<h1>{escape(str(folder))}</h1>"]
    seen = None if recipe is None else build_recipe_data(recipe, str(prepared))
    if seen is not None:
        seen[0].prepare_data()
        seen[0].setup("fit")
    codes = _find_codes_folder(folder) if seen is None else seen[0].folder
    tasks_folder = codes or folder / "tasks"
    manifest = {} if codes is None else read_manifest(codes)
    text = TextTokenizer(DEFAULT_RANKS) if seen is None else seen[0].template.text
    contents = read_task_contents(tasks_folder, manifest, text, limit=limit)
    sections += _log_table("Tasks", _TASK_HEAD, [_task_cells(row) for row in contents])
    if holds_shards(prepared / "media"):
        media = read_media_contents(prepared / "media", limit=limit)
        sections += _log_table("Media", _MEDIA_HEAD, [_media_cells(row) for row in media])
    if codes is None:
        log.info("the data are not encoded; give --recipe to see codes, mixture and packed rows")
    if seen is not None:
        batches = read_first_batches(seen[0])
        lines = [_share_cells(share) for share in compute_task_shares(*seen, batches)]
        sections += _log_table(f"Mixture of {recipe}", _MIXTURE_HEAD, lines)
        sections += [_ROWS_TITLE, rows_html(batches[0], seen[0].template)]
    source = prepared / "tasks" if holds_shards(prepared / "tasks") else tasks_folder
    chosen = choose_samples(source, contents, count=samples, limit=limit, seed=seed)
    found = read_media(prepared / "media", chosen)
    sections += ["<h2>Samples</h2>", examples_html(chosen, found)]
    _write_page(out or Path("inspect.html"), f"Data · {folder}", sections)
    log_read_counts(read_counts_so_far())


_ROWS_TITLE = (
    "<h2>First packed rows</h2><p>One cell per token: text, a special token, or a code with the "
    "first letter of its modality. A colour is a segment, whose tokens attend to each other and to "
    "no others; underlined tokens belong to the response, of which training masks some; pale ones "
    "are tail pads, grey ones the unused end of a row.</p>"
)


def _find_codes_folder(folder: Location) -> Location | None:
    """Return the folder of codes to count: the folder itself, or the last one that was finished."""
    if "spans" in read_manifest(folder):
        return folder
    if isinstance(folder, Url):
        log.info("codes at a URL are shown if it is theirs: '%s'", folder / "codes/HASH")
        return None
    finished = [path.parent for path in (folder / "codes").glob(f"*/{MANIFEST}")]
    return max(finished, key=lambda path: (path / MANIFEST).stat().st_mtime, default=None)


def _task_cells(row: Contents) -> list[str]:
    counts = [_format_estimate(row, row.tokens[name]) for name in ("text", "speech", "image")]
    return [row.kind, row.split, f"{row.total:,}", *counts, _format_duration(row)]


def _media_cells(row: Contents) -> list[str]:
    megabytes = f"{row.num_bytes / 1e6:,.1f}"
    return [row.kind, row.split, f"{row.total:,}", megabytes, _format_duration(row)]


def _share_cells(share: TaskShare) -> list[str]:
    passes = "endless" if share.passes is None else f"{share.passes:,.2f}"
    return [
        share.task,
        f"{share.share:.3f}",
        f"{share.samples:,}",
        f"{share.token_share:.3f}",
        passes,
    ]


def _format_estimate(row: Contents, of_read: float) -> str:
    value, is_exact = row.extrapolate(of_read)
    return f"{'' if is_exact else '~'}{value:,.0f}" if value else "-"


def _format_duration(row: Contents) -> str:
    """Return a duration in words: seconds, minutes or hours."""
    seconds, is_exact = row.extrapolate(row.seconds)
    if not seconds:
        return "-"
    units = ((3600, "h"), (60, "min"), (1, "s"))
    unit, name = next((u for u in units if seconds >= u[0]), units[-1])
    return f"{'' if is_exact else '~'}{seconds / unit:,.1f} {name}"


def _log_table(title: str, head: tuple[str, ...], lines: list[list[str]]) -> list[str]:
    """Log a table, and return it as HTML."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        words = [
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        log.info("%s", "  ".join(words).rstrip())
    return [f"<h2>{escape(title)}</h2>", text_table(head, lines)]


def _write_page(out: Path, title: str, sections: list[str]) -> None:
    page = resources.files("lightning_omni.studies.report").joinpath("page.html").read_text("utf-8")
    made = Page(page).substitute(title=escape(title), body="\n".join(sections))
    write_text(make_parent_folder(out), made)
    log.info("wrote %s (%.1f MB)", out, out.stat().st_size / 1e6)
