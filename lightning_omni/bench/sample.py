"""Filling an answer: ours beside the released way, on the same weights and the same prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_omni.bench import peer as peers
from lightning_omni.bench.timing import ratio, take_turns
from lightning_omni.bench.workload import Shape, make_network, places
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import Canvas, LogitsAt, fill
from lightning_omni.samplers.confidence import Confidence

_SPAN_SHARE = 2  # the answer's modality has this part of the vocabulary


def compare_sampling(
    shape: Shape, *, prompt: int, answer: int, steps: list[int], repeats: int, seed: int
) -> list[dict[str, Any]]:
    """Time both at equal steps in turns; the tokens of both are compared first."""
    network = make_network(shape, seed=seed).eval()
    peer = peers.make_peer(network, shape).eval()
    rng = torch.Generator().manual_seed(seed)
    given = torch.randint(0, shape.mask_token_id, (prompt,), generator=rng)
    ids = torch.cat((given, torch.full((answer,), shape.mask_token_id)))
    span = (shape.mask_token_id // _SPAN_SHARE, shape.mask_token_id)
    found = []
    for count in steps:
        runs = {
            "ours": lambda count=count: fill_ours(network, ids, count, span, shape),
            "peer": lambda count=count: peers.fill_by_full_forwards(
                peer, ids, steps=count, span=span, mask_token_id=shape.mask_token_id
            ),
        }
        ours, theirs = runs["ours"](), runs["peer"]()
        timings = take_turns(runs, repeats=repeats, warm_up=0)
        times, noise = ratio(timings["peer"], timings["ours"])
        found.append(
            {
                "steps": count,
                "prompt": prompt,
                "answer": answer,
                "equal_tokens": float((ours == theirs).float()[prompt:].mean()),
                "fill_s": {name: timing.to_json() for name, timing in timings.items()},
                "ratio": times,
                "ratio_spread": noise,
            }
        )
    return found


@torch.inference_mode()
def fill_ours(
    network: Transformer, ids: Tensor, steps: int, span: tuple[int, int], shape: Shape
) -> Tensor:
    """Fill the masks of one sequence with scores at open positions over the span only."""
    hole = torch.where(ids == shape.mask_token_id, 0, -1)
    canvas = Canvas(
        ids=ids,
        sample=torch.zeros_like(ids),
        hole=hole,
        grammar=hole,
        allowed=(torch.arange(*span),),
        num_steps=torch.tensor([[steps]]),
        mask_token_id=shape.mask_token_id,
    )
    layout, positions = SegmentLayout.of([len(ids)], device="cpu"), places([len(ids)])

    def denoise(now: Tensor) -> LogitsAt:
        hidden = network(now, positions, layout)
        return lambda where, allowed: network.logits(hidden[where], allowed)

    return fill(denoise, canvas, Confidence(), rng=torch.Generator().manual_seed(0))
