"""How long an answer will be, as the network sees it before a single token is decided."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.data.template import MaskedSpan as Hole
from lightning_omni.generation.blank import Blank
from lightning_omni.generation.canvas_builder import Grammar, PackedPrompts, end_ids
from lightning_omni.generation.denoiser import conditional
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import Sequence
from lightning_omni.vocab import Vocab

IN_DOUBT = 0.02
"""Positions that hold content with at least this probability are offered."""


@torch.no_grad()
def predict_lengths(
    backbone: Transformer,
    prompts: list[tuple[Sequence, list[Hole]]],
    packed: PackedPrompts,
    grammar: Grammar,
    vocab: Vocab,
) -> list[int | None]:
    """Positions that each sample's answer needs, or None where its hole seems too short.

    Tail pads teach the network where answers end, so in a hole of masks it says of every position
    how likely it lies behind the end. One forward pass tells the length of all samples.

    Args:
        backbone: Trained with tail pads.
        prompts: Rendered, each with one hole of masks.
        packed: The same, packed.
        grammar: Of the holes.
        vocab: The id space.

    Source: DAEDAL, arXiv:2508.00819 (confidence in the end at a canvas's tail).
    """
    denoise = conditional(backbone, packed, mask_token_id=vocab.mask_token_id)
    scores = denoise(packed.ids, packed.hole_positions)
    ends = torch.tensor(end_ids(vocab), device=packed.ids.device)
    lengths: list[int | None] = []
    start = 0
    for sequence, (hole,) in prompts:
        rows = torch.tensor(grammar.rows(hole.modality, Blank(hole.stop - hole.start)))
        heads = (rows == rows[0]).nonzero().squeeze(1)  # for speech the first code of each frame
        allowed = grammar.allowed[int(rows[0])]
        logits = scores(start + hole.start + heads.to(ends), allowed)
        lengths.append(_needed(logits, torch.isin(allowed, ends), heads, hole.stop - hole.start))
        start += len(sequence.ids)
    return lengths


def _needed(logits: Tensor, is_end: Tensor, heads: Tensor, length: int) -> int | None:
    """Positions up to the last that may hold content, and one for the end."""
    content = logits.softmax(-1)[:, ~is_end].sum(-1)
    likely = (content >= IN_DOUBT).nonzero().squeeze(1)
    if not len(likely):
        return 1
    last = int(likely.max())
    if last + 1 == len(heads):
        return None
    width = int(heads[1] - heads[0]) if len(heads) > 1 else length
    return int(heads[last]) + width + 1
