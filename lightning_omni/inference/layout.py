"""Build the canvas of a batch of samples: holes, the grammar of each position, step counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_omni.data.template import Hole, Template
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.types import Sample, Sequence
from lightning_omni.vocab import Vocab


class Grammar:
    """What each position of a hole may hold: rows of allowed ids.

    Row 0 is text and its terminators, row 1 image codes, row 2 + q the speech codes of level q and
    the terminators. So an image is always exactly its codes, and a speech code always stands at its
    own codebook level.
    """

    def __init__(self, vocab: Vocab, codebooks: int, *, device: torch.device) -> None:
        def ids(start: int, size: int, *extra: int) -> Tensor:
            return torch.tensor([*extra, *range(start, start + size)], device=device).sort().values

        text, image, speech = (vocab.span(m) for m in ("text", "image", "speech"))
        level = speech.size // codebooks
        rows = [ids(text.start, text.size, *vocab.ends("text")), ids(image.start, image.size)]
        for q in range(codebooks):
            ends = vocab.ends("speech") if q == 0 else (vocab.pad_token_id,)
            rows.append(ids(speech.start + q * level, level, *ends))
        self.allowed, self.codebooks = tuple(rows), codebooks

    def rows(self, hole: Hole) -> list[int]:
        """Grammar row of each position of a hole."""
        length = hole.stop - hole.start
        if hole.modality == "speech":
            return [2 + i % self.codebooks for i in range(length)]
        return [{"text": 0, "image": 1}[hole.modality]] * length


@dataclass(frozen=True, slots=True)
class PackedPrompts:
    """Rendered prompts one behind another, with the places of their holes."""

    ids: Tensor
    position_ids: Tensor
    layout: SegmentLayout
    hole_positions: Tensor
    """Flat places of all hole positions, samples in order, Int[H]."""


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
    return PackedPrompts(
        torch.tensor([i for s, _ in prompts for i in s.ids], device=device),
        torch.tensor([p for s, _ in prompts for p in s.position_ids], device=device),
        SegmentLayout.of(lengths, device=device),
        torch.tensor(where, dtype=torch.long, device=device),
    )


def make_canvas(
    prompts: list[tuple[Sequence, list[Hole]]],
    packed: PackedPrompts,
    grammar: Grammar,
    *,
    num_steps: list[int],
    shift: float,
    stop_at_end: bool,
    vocab: Vocab,
) -> Canvas:
    """Make the canvas on which the holes of every sample are filled."""
    total, device = len(packed.ids), packed.ids.device
    hole_of, row_of = [-1] * total, [-1] * total
    start = 0
    for sequence, holes in prompts:
        for h, hole in enumerate(holes):
            span = slice(start + hole.start, start + hole.stop)
            hole_of[span] = [h] * (hole.stop - hole.start)
            row_of[span] = grammar.rows(hole)
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
    lengths: list[int],
    *,
    part: int,
    drop: Collection[str] = (),
) -> list[tuple[Sequence, list[Hole]]]:
    """Render every sample with answer part `part` as a hole of the length given."""
    return [
        template.render_prompt(sample, part=part, length=length, drop=drop)
        for sample, length in zip(samples, lengths, strict=True)
    ]
