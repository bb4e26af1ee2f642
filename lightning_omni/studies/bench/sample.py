"""Filling an answer: ours beside the released way, on the same weights and the same prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_omni.generation.canvas_builder import PackedPrompts
from lightning_omni.generation.config import PRESETS
from lightning_omni.generation.denoiser import conditional
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.loop import sample
from lightning_omni.studies.bench import peer as peers
from lightning_omni.studies.bench.timing import ratio, take_turns
from lightning_omni.studies.bench.workload import Shape, make_network, places

IMAGE_IDS = 8192
"""Codes of the published image tokenizer; fewer where the vocabulary is smaller than twice that."""
RELEASED_STEPS = 256


@dataclass(frozen=True, slots=True)
class Canvases:
    """A batch of equal prompts and answers of equal length.

    Attributes:
        prompt: Tokens given of each.
        answer: Tokens filled of each.
        batch: How many.
    """

    prompt: int
    answer: int
    batch: int = 1

    @property
    def length(self) -> int:
        """Tokens of one."""
        return self.prompt + self.answer

    def pack(self, shape: Shape, *, seed: int) -> PackedPrompts:
        """Random prompts before masks."""
        rng = torch.Generator().manual_seed(seed)
        given = torch.randint(0, shape.mask_token_id, (self.batch, self.prompt), generator=rng)
        masks = torch.full((self.batch, self.answer), shape.mask_token_id)
        ids = torch.cat((given, masks), dim=1).flatten()
        lengths = [self.length] * self.batch
        masked = (ids == shape.mask_token_id).nonzero().squeeze(1)
        return PackedPrompts(
            ids, places(lengths), SegmentLayout.from_lengths(lengths, device="cpu"), masked
        )


def compare_sampling(
    shape: Shape, canvases: Canvases, *, steps: list[int], repeats: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Time both in turns at equal steps, then our fast setting beside the released 256 steps.

    At equal steps the tokens of both are compared first. What fewer steps cost in quality is a
    question for a trained network: `lightning_omni calibrate`.
    """
    network = make_network(shape, seed=seed).eval()
    peer = peers.make_peer(network, shape).eval()
    packed, span = canvases.pack(shape, seed=seed), image_span(shape)

    def ours(count: int) -> Tensor:
        return fill_ours(network, packed, count, shape)

    def theirs(count: int) -> Tensor:
        return peers.fill_by_full_forwards(
            peer, packed.ids, steps=count, span=span, mask_token_id=shape.mask_token_id
        )

    fast = PRESETS["fast"]["image"].num_steps(canvases.answer)
    for count, released in [*((n, n) for n in steps), (fast, RELEASED_STEPS)]:
        is_compared = count == released
        equal = _equal_share(packed, ours(count), theirs(released)) if is_compared else None
        runs = {"ours": partial(ours, count), "peer": partial(theirs, released)}
        timings = take_turns(runs, repeats=repeats, warm_up=0)
        times, noise = ratio(timings["peer"], timings["ours"])
        yield {
            "vocab_size": shape.vocab_size,
            "steps": count,
            "peer_steps": released,
            "prompt": canvases.prompt,
            "answer": canvases.answer,
            "equal_tokens": equal,
            "fill_s": {name: timing.to_json() for name, timing in timings.items()},
            "ratio": times,
            "ratio_spread": noise,
        }


def compare_memories(
    shape: Shape, canvases: Canvases, *, steps: int, cache_interval: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Time our ways of not computing a prompt again, beside computing all at every step.

    `isolated` is exact for a network that was trained so; its tokens are compared with those of
    whole passes before it is timed. `refreshed` is an approximation.
    """
    plain = make_network(shape, seed=seed).eval()
    isolated = make_network(shape, seed=seed, isolate_prompt=True).eval()
    packed = canvases.pack(shape, seed=seed)
    ways: dict[str, Callable[[], Tensor]] = {
        "whole": lambda: fill_ours(plain, packed, steps, shape),
        "refreshed": lambda: fill_ours(plain, packed, steps, shape, cache_interval=cache_interval),
        "isolated": lambda: fill_ours(isolated, packed, steps, shape),
    }
    exact = fill_ours(isolated, packed, steps, shape, is_remembering=False)
    equal = _equal_share(packed, ways["isolated"](), exact)
    timings = take_turns(ways, repeats=repeats)
    ratios = {name: ratio(timings["whole"], t) for name, t in timings.items() if name != "whole"}
    return {
        "vocab_size": shape.vocab_size,
        "prompt": canvases.prompt,
        "answer": canvases.answer,
        "batch": canvases.batch,
        "steps": steps,
        "cache_interval": cache_interval,
        "equal_tokens": equal,
        "fill_s": {name: timing.to_json() for name, timing in timings.items()},
        "ratios": {name: found[0] for name, found in ratios.items()},
        "ratios_spread": {name: found[1] for name, found in ratios.items()},
    }


def _equal_share(packed: PackedPrompts, one: Tensor, other: Tensor) -> float:
    """Share of the filled tokens that two ways agree on."""
    filled = packed.response_positions
    return float((one[filled] == other[filled]).float().mean())


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    what = f"{row['vocab_size']} ids, {row['answer']} tokens behind {row['prompt']}"
    seconds = {name: timing["median_s"] for name, timing in row["fill_s"].items()}
    if "ratios" in row:
        times = ", ".join(
            f"{name} {ratio:.2f} times (+- {row['ratios_spread'][name]:.2f})"
            for name, ratio in row["ratios"].items()
        )
        return (
            f"{what}, batch of {row['batch']}, {row['steps']} steps: whole passes "
            f"{seconds['whole']:.3f} s, {times}; {row['equal_tokens']:.1%} of the isolated tokens "
            "equal those of whole passes"
        )
    equal = row["equal_tokens"]
    said = f"; {equal:.1%} of the tokens are equal" if equal is not None else ""
    return (
        f"{what}: ours {row['steps']} steps in {seconds['ours']:.3f} s, peer {row['peer_steps']} "
        f"in {seconds['peer']:.3f} s, {row['ratio']:.2f} times (+- {row['ratio_spread']:.2f}){said}"
    )


def image_span(shape: Shape) -> tuple[int, int]:
    """First id of the answer's modality, and the one behind its last."""
    size = min(IMAGE_IDS, shape.mask_token_id // 2)
    return shape.mask_token_id - size, shape.mask_token_id


@torch.inference_mode()
def fill_ours(
    network: Transformer,
    packed: PackedPrompts,
    steps: int,
    shape: Shape,
    *,
    cache_interval: int = 1,
    is_remembering: bool = True,
) -> Tensor:
    """Fill the masks with scores at open positions over the answer's span only."""
    block = torch.where(packed.ids == shape.mask_token_id, 0, -1)
    lengths = packed.layout.lengths
    canvas = Canvas(
        ids=packed.ids,
        sample=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        block=block,
        row=block,
        allowed=(torch.arange(*image_span(shape)),),
        num_steps=torch.full((len(lengths), 1), steps),
        mask_token_id=shape.mask_token_id,
    )
    denoise = conditional(
        network, packed, mask_token_id=shape.mask_token_id, cache_interval=cache_interval
    )
    if not is_remembering:
        layout = network.segment_layout(lengths, block >= 0)

        def denoise(ids: Tensor, _: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            hidden = network(ids, packed.position_ids, layout)
            return lambda positions, allowed: network.logits(hidden[positions], allowed)

    return sample(
        denoise, canvas, Confidence(), seeds=canvas.num_steps.new_zeros(len(canvas.num_steps))
    )
