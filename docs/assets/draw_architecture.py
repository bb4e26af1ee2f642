"""Draw the architecture figure of the README, in a light and a dark version.

Run: python docs/assets/draw_architecture.py
Writes architecture-light.svg and architecture-dark.svg beside this file. Standard library only; the
same bytes every time.
"""  # noqa: INP001

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1200, 500
FONT = "-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
CELL, GAP = 26, 4
MODALITIES = ("text", "speech", "image")


@dataclass(frozen=True)
class Theme:
    """Colours of one version."""

    background: str
    ink: str
    muted: str
    line: str
    panel: str
    mask: str
    text: str
    speech: str
    image: str


THEMES = {
    "light": Theme(
        background="#ffffff",
        ink="#1f2328",
        muted="#59636e",
        line="#8c959f",
        panel="#f6f8fa",
        mask="#d1d9e0",
        text="#2f6fdb",
        speech="#c2571a",
        image="#1a7f4b",
    ),
    "dark": Theme(
        background="#0d1117",
        ink="#f0f6fc",
        muted="#9198a1",
        line="#6e7681",
        panel="#161b22",
        mask="#3d444d",
        text="#6ea8fe",
        speech="#f0985a",
        image="#56d394",
    ),
}
TOKENIZERS = (
    ("text", "byte-pair tokenizer", "words ⇄ tokens"),
    ("speech", "speech tokenizer", "16 kHz ⇄ 25 codes/s"),
    ("image", "image tokenizer", "64×64 px ⇄ 8×8 codes"),
)
# one letter a token: t, s, i of a modality, _ masked
PROMPT = "tttssss"
BEFORE = "_i__i____i__"
AFTER = "_ii_i_i__ii_"


class Drawing:
    """Shapes of one SVG file, in order."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.shapes: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, *, fill: str, line: str = "none"
    ) -> None:
        """Add a box with round corners."""
        self.shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" '
            f'stroke="{line}" stroke-width="1.5"/>'
        )

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 15,
        fill: str | None = None,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """Add a line of text; y is its baseline."""
        self.shapes.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" '
            f'font-weight="{600 if bold else 400}" fill="{fill or self.theme.ink}">'
            f"{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        """Add a line along the points with a head at its end."""
        path = " L ".join(f"{x} {y}" for x, y in points)
        self.shapes.append(
            f'<path d="M {path}" fill="none" stroke="{self.theme.line}" stroke-width="1.8" '
            'stroke-linejoin="round" marker-end="url(#head)"/>'
        )

    def svg(self, title: str) -> str:
        """Return the file's text."""
        head = (
            '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M 0 0 L 10 5 L 0 10 z" '
            f'fill="{self.theme.line}"/></marker>'
        )
        body = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" font-family="{escape(FONT)}">\n'
            f"<title>{escape(title)}</title>\n<defs>{head}</defs>\n{body}\n</svg>\n"
        )


def tokenizer_column(drawing: Drawing, x: float, *, decodes: bool) -> None:
    """Draw the three tokenizers as encoders or decoders."""
    theme = drawing.theme
    drawing.write(x + 95, 52, "codes → media" if decodes else "media → codes", bold=True)
    for n, (modality, name, sizes) in enumerate(TOKENIZERS):
        y = 78 + 110 * n
        color = getattr(theme, modality)
        drawing.rect(x, y, 190, 80, fill=theme.panel, line=color)
        drawing.write(x + 95, y + 34, name, fill=color, bold=True)
        drawing.write(x + 95, y + 57, sizes, size=13, fill=theme.muted)
        middle = y + 40
        if decodes:
            drawing.arrow((x - 48, middle), (x - 4, middle))
        else:
            drawing.arrow((x + 194, middle), (x + 238, middle))


def canvas(drawing: Drawing, x: float, y: float, tokens: str) -> None:
    """Draw a row of tokens; masked ones are grey with an M."""
    theme = drawing.theme
    colors = {m[0]: getattr(theme, m) for m in MODALITIES}
    for n, token in enumerate(tokens):
        left = x + n * (CELL + GAP)
        drawing.rect(left, y, CELL, CELL, fill=colors.get(token, theme.mask))
        if token == "_":
            drawing.write(left + CELL / 2, y + 18, "M", size=12, fill=theme.muted)


def middle(drawing: Drawing) -> None:
    """Draw one denoising step: canvas, transformer, canvas with more committed tokens."""
    theme = drawing.theme
    left, right = 262, 938
    side = 28
    drawing.rect(left, 26, right - left, 384, fill=theme.background, line=theme.line)
    x = left + side
    response = x + len(PROMPT) * (CELL + GAP) + 12
    end = response + len(AFTER) * (CELL + GAP) - GAP
    center = (x + end) / 2
    drawing.write(x, 58, "request (never masked)", size=13, fill=theme.muted, anchor="start")
    drawing.write(response, 58, "response, partly masked: x_t", size=13, anchor="start")
    canvas(drawing, x, 68, PROMPT)
    canvas(drawing, response, 68, BEFORE)
    drawing.arrow((center, 102), (center, 138))
    drawing.rect(x, 144, end - x, 96, fill=theme.panel, line=theme.ink)
    drawing.write(center, 177, "one bidirectional transformer", size=18, bold=True)
    drawing.write(
        center,
        201,
        "every token attends to every token of its sample; no causal mask",
        size=13,
        fill=theme.muted,
    )
    drawing.write(
        center,
        223,
        "one vocabulary: text + special tokens | speech codes | image codes",
        size=13,
        fill=theme.muted,
    )
    drawing.arrow((center, 244), (center, 280))
    drawing.write(
        center + 14, 267, "predict every masked token", size=13, fill=theme.muted, anchor="start"
    )
    drawing.write(x, 311, "commit the most confident", size=13, anchor="start")
    canvas(drawing, x, 322, PROMPT)
    canvas(drawing, response, 322, AFTER)
    turn = right - 22
    drawing.arrow((end + 6, 335), (turn, 335), (turn, 81), (end + 8, 81))
    drawing.write(center, 386, "repeat until nothing is masked", size=13, fill=theme.muted)


def figure(theme: Theme) -> str:
    """Return the whole figure as SVG text."""
    drawing = Drawing(theme)
    drawing.shapes.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{theme.background}"/>')
    tokenizer_column(drawing, 20, decodes=False)
    middle(drawing)
    tokenizer_column(drawing, 990, decodes=True)
    lines = (
        ("Training", "mask the response at a random ratio t, predict the masked tokens; "
         "cross-entropy times 1/t bounds −log p."),
        ("Generation", "start from a fully masked response, repeat the step above."),
        ("Infilling", "start from a response in which only some tokens are masked."),
    )  # fmt: skip
    for n, (word, rest) in enumerate(lines):
        y = 440 + 22 * n
        drawing.write(262, y, word, size=14, anchor="start", bold=True)
        drawing.write(356, y, rest, size=14, anchor="start")
    return drawing.svg(
        "Tokenizers turn text, speech and images into codes of one vocabulary; one bidirectional "
        "transformer predicts the masked codes of a response, step by step."
    )


def main() -> None:
    """Write both versions beside this script."""
    for name, theme in THEMES.items():
        path = Path(__file__).with_name(f"architecture-{name}.svg")
        path.write_text(figure(theme), encoding="utf-8")


if __name__ == "__main__":
    main()
