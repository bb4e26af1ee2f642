"""Render prompts and pack them one after another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from lightning_omni.data.packing import concatenate_features
from lightning_omni.data.template import Template
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.types import ContinuousFeatures, Sample


@dataclass(frozen=True, slots=True)
class PackedPrompts:
    """Rendered prompts one after another, with the positions of their responses, on the host.

    Attributes:
        ids: token ids, Int[T].
        position_ids: Int[T 3].
        layout: the prompts as segments.
        response_positions: positions of all responses, samples in order, Int[H].
        continuous: features in place of some tokens; None without continuous speech.
    """

    ids: Tensor
    position_ids: Tensor
    layout: SegmentLayout
    response_positions: Tensor
    continuous: ContinuousFeatures | None = None


def pack_prompts(
    template: Template,
    samples: list[Sample],
    spans: list[ResponseSpan],
    *,
    part: int,
    drop: Collection[str] = (),
) -> PackedPrompts:
    """Render every sample with its response as answer part `part`, one prompt after another.

    Args:
        template: the template.
        samples: samples with their requests.
        spans: their responses.
        part: index of the part in the last turn; the parts before it are given.
        drop: modalities of the request to leave out, for guidance.
    """
    rendered = [
        template.render_prompt(sample, part=part, length=span.length, fixed=span.fixed, drop=drop)
        for sample, span in zip(samples, spans, strict=True)
    ]
    sequences = [sequence for sequence, _ in rendered]
    lengths = [len(sequence.ids) for sequence in sequences]
    starts = accumulate(lengths, initial=0)
    positions = [
        np.arange(start + response.start, start + response.stop)
        for start, (_, response) in zip(starts, rendered, strict=False)
    ]
    return PackedPrompts(
        torch.from_numpy(np.concatenate([s.ids for s in sequences])),
        torch.from_numpy(np.concatenate([s.position_ids for s in sequences])),
        SegmentLayout.from_lengths(lengths, device="cpu"),
        torch.from_numpy(np.concatenate(positions)),
        concatenate_features(sequences),
    )
