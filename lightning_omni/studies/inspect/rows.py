"""Packed rows as the model sees them, one cell per token, coloured by segment."""

from __future__ import annotations

from html import escape

from lightning_omni.data.template import Template
from lightning_omni.modalities import TEXT
from lightning_omni.types import Batch

COLORS = 6
SPECIAL = "special"
STYLE = """<style>
.row { line-height: 1.9; font: 11px/1.9 ui-monospace, Menlo, Consolas, monospace; margin: 0 0 16px;
  word-break: break-all; }
.row i { font-style: normal; padding: 1px 2px; margin: 0 1px 0 0; border-radius: 2px;
  color: #14161a; white-space: pre-wrap; }
.s0 { background: #cfe2f7; } .s1 { background: #fbe0c4; } .s2 { background: #d3efd9; }
.s3 { background: #ecd9f5; } .s4 { background: #f9d5d5; } .s5 { background: #e4e4c4; }
.row i.unused { background: transparent; color: var(--soft); }
.row i.answer { box-shadow: inset 0 -2px 0 #14161a; }
.row i.pad { opacity: .55; }
</style>"""


def rows_html(batch: Batch, template: Template) -> str:
    """Return the rows of a batch as HTML."""
    labels = [describe_token(int(i), template) for i in batch.ids]
    answer, pads = batch.maskable.tolist(), batch.is_tail_pad.tolist()
    segments, tasks = batch.segment_ids.tolist(), batch.host_tasks
    length = len(labels) // batch.num_rows
    rows = []
    for start in range(0, len(labels), length):
        cells = []
        for n in range(start, start + length):
            names = ["unused" if tasks[segments[n]] < 0 else f"s{segments[n] % COLORS}"]
            names += ["answer"] * answer[n] + ["pad"] * pads[n]
            cells.append(f'<i class="{" ".join(names)}">{escape(labels[n])}</i>')
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    return STYLE + "".join(rows)


def describe_token(token: int, template: Template) -> str:
    """Return a token in words: its text, its special name, or its code and the code's modality."""
    vocab = template.vocab
    name = next(name for name, span in vocab.spans.items() if span.start <= token < span.stop)
    if name == TEXT:
        return template.text.decode([token])
    if name == SPECIAL:
        return vocab.special_token_name(token)
    return f"{name[0]}{token - vocab.span(name).start}"
