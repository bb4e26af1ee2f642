"""Build the canvas of a batch of samples: holes, the grammar of each position, step counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_omni.data.packing import lay_features
from lightning_omni.data.template import MaskedSpan as Hole
from lightning_omni.data.template import Template
from lightning_omni.generation.blank import Blank
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Continuous, Sample, Sequence
from lightning_omni.vocab import Vocab


class Grammar:
    """What each position of a hole may hold: rows of allowed ids.

    Row 0 is text and its terminators, row 1 image codes, row 2 + q the speech codes of level q and
    the terminators. So an image is always exactly its codes, and a speech code always stands at its
    own codebook level. Behind them come rows for places within a draft, where an answer does not
    end: a speech row for each level, text that is more than white space, and such text after a
    space.
    """

    def __init__(
        self, vocab: Vocab, text_tokenizer: TextTokenizer, codebooks: int, *, device: torch.device
    ) -> None:
        def ids(start: int, size: int, *extra: int) -> Tensor:
            return torch.tensor([*extra, *range(start, start + size)], device=device).sort().values

        text, image, speech = (vocab.span(m) for m in ("text", "image", "speech"))
        level = speech.size // codebooks
        rows = [ids(text.start, text.size, *vocab.ends("text")), ids(image.start, image.size)]
        for q in range(codebooks):
            ends = vocab.ends("speech") if q == 0 else (vocab.pad_token_id,)
            rows.append(ids(speech.start + q * level, level, *ends))
        rows += [ids(speech.start + q * level, level) for q in range(codebooks)]
        for after_space in (False, True):
            tokens = text_tokenizer.visible(after_space=after_space)
            rows.append(text.start + torch.tensor(tokens, device=device))
        self.allowed, self.codebooks = tuple(rows), codebooks

    def rows(self, modality: str, blank: Blank) -> list[int]:
        """Grammar row of each position of a hole."""
        if modality == "image":
            return [1] * blank.length
        if modality == "speech":
            levels = (2 + i % self.codebooks for i in range(blank.length))
            return [row + self.codebooks * (i in blank.inside) for i, row in enumerate(levels)]
        inside = 2 + 2 * self.codebooks
        return [
            inside + (i in blank.after_space) if i in blank.inside else 0
            for i in range(blank.length)
        ]


@dataclass(frozen=True, slots=True)
class PackedPrompts:
    """Rendered prompts one behind another, with the places of their holes."""

    ids: Tensor
    position_ids: Tensor
    layout: SegmentLayout
    hole_positions: Tensor
    """Flat places of all hole positions, samples in order, Int[H]."""
    continuous: Continuous | None = None
    """Features in the place of some tokens, places being flat."""


def pack_prompts(
    prompts: list[tuple[Sequence, list[Hole]]], *, device: torch.device
) -> PackedPrompts:
    """Lay prompts one behind another."""
    lengths = [len(sequence.ids) for sequence, _ in prompts]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    where = [
        start + i
        for start, (_, holes) in zip(starts, prompts, strict=True)
        for hole in holes
        for i in range(hole.start, hole.stop)
    ]
    continuous = lay_features([sequence for sequence, _ in prompts])
    return PackedPrompts(
        torch.tensor([i for s, _ in prompts for i in s.ids], device=device),
        torch.tensor([p for s, _ in prompts for p in s.position_ids], device=device),
        SegmentLayout.from_lengths(lengths, device=device),
        torch.tensor(where, dtype=torch.long, device=device),
        None if continuous is None else continuous.to(device),
    )


def make_canvas(
    prompts: list[tuple[Sequence, list[Hole]]],
    packed: PackedPrompts,
    grammar: Grammar,
    *,
    blanks: list[Blank],
    num_steps: list[int],
    shift: float,
    stop_at_end: bool,
    vocab: Vocab,
) -> Canvas:
    """Make the canvas on which the holes of every sample are filled."""
    total, device = len(packed.ids), packed.ids.device
    hole_of, row_of = [-1] * total, [-1] * total
    start = 0
    for (sequence, holes), blank in zip(prompts, blanks, strict=True):
        for h, hole in enumerate(holes):
            span = slice(start + hole.start, start + hole.stop)
            hole_of[span] = [h] * (hole.stop - hole.start)
            row_of[span] = grammar.rows(hole.modality, blank)
        start += len(sequence.ids)
    samples = torch.arange(len(prompts), device=device)
    lengths = torch.tensor(packed.layout.lengths, device=device)
    return Canvas(
        ids=packed.ids,
        sample=samples.repeat_interleave(lengths),
        hole=torch.tensor(hole_of, device=device),
        grammar=torch.tensor(row_of, device=device),
        allowed=grammar.allowed,
        num_steps=torch.tensor(num_steps, device=device)[:, None],
        mask_token_id=vocab.mask_token_id,
        shift=torch.full((len(prompts), 1), shift, device=device),
        ends=end_ids(vocab) if stop_at_end else (),
        pad_token_id=vocab.pad_token_id,
    )


def end_ids(vocab: Vocab) -> tuple[int, ...]:
    """Ids behind which a text or a spoken answer has nothing more."""
    return tuple(dict.fromkeys((*vocab.ends("text"), *vocab.ends("speech"))))


def render_prompts(
    template: Template,
    samples: list[Sample],
    blanks: list[Blank],
    *,
    part: int,
    drop: Collection[str] = (),
) -> list[tuple[Sequence, list[Hole]]]:
    """Render every sample with its blank as the hole of answer part `part`."""
    rendered = [
        template.render_prompt(sample, part=part, length=blank.length, given=blank.given, drop=drop)
        for sample, blank in zip(samples, blanks, strict=True)
    ]
    return [(sequence, [span]) for sequence, span in rendered]
