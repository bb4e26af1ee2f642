"""Generate an answer with this package and with the released sampler, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_omni.generation.denoiser import conditional_denoiser
from lightning_omni.generation.modality_defaults import PRESETS
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.loop import sample
from lightning_omni.studies.bench import transformers_peer as peers
from lightning_omni.studies.bench.timing import paired_ratio, synchronize, time_alternating
from lightning_omni.studies.bench.workload import Shape, make_network, make_position_ids

IMAGE_IDS = 8192
"""Codes of the published image tokenizer; fewer if they exceed half the vocabulary."""
RELEASED_STEPS = 256


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Sizes of a batch of requests.

    Attributes:
        prompt: Tokens per prompt.
        answer: Tokens per answer.
        batch: Number of requests.
    """

    prompt: int
    answer: int
    batch: int = 1

    @property
    def tokens_per_request(self) -> int:
        """Tokens per request."""
        return self.prompt + self.answer

    def make_prompts(self, shape: Shape, *, seed: int) -> PackedPrompts:
        """Return random prompts, each followed by masks."""
        rng = torch.Generator().manual_seed(seed)
        given = torch.randint(0, shape.mask_token_id, (self.batch, self.prompt), generator=rng)
        masks = torch.full((self.batch, self.answer), shape.mask_token_id)
        ids = torch.cat((given, masks), dim=1).flatten()
        lengths = [self.tokens_per_request] * self.batch
        ids = ids.to(shape.device)
        masked = (ids == shape.mask_token_id).nonzero().squeeze(1)
        return PackedPrompts(
            ids,
            make_position_ids(lengths, device=shape.device),
            SegmentLayout.from_lengths(lengths, device=shape.device),
            masked,
        )


def compare_sampling(
    shape: Shape, request: RequestShape, *, steps: list[int], repeats: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Time both samplers at equal steps, then the preset `fast` against the released 256 steps.

    At equal steps their tokens are compared first. The quality at fewer steps needs a trained
    network: `lightning_omni calibrate`.
    """
    network = make_network(shape, seed=seed).eval()
    peer = peers.make_peer(network, shape).eval()
    packed, span = request.make_prompts(shape, seed=seed), image_id_range(shape)

    def run_this_package(count: int) -> Tensor:
        return sample_with_this_package(network, packed, count, shape)

    def run_released_sampler(count: int) -> Tensor:
        return peers.sample_with_released_sampler(
            peer, packed.ids, steps=count, span=span, mask_token_id=shape.mask_token_id
        )

    fast = PRESETS["fast"]["image"].steps_for(request.answer)
    for count, released in [*((n, n) for n in steps), (fast, RELEASED_STEPS)]:
        is_compared = count == released
        equal = (
            _share_of_equal_tokens(packed, run_this_package(count), run_released_sampler(released))
            if is_compared
            else None
        )
        runs = {
            "ours": partial(run_this_package, count),
            "peer": partial(run_released_sampler, released),
        }
        timings = time_alternating(runs, repeats=repeats, warm_up=0)
        times, noise = paired_ratio(timings["peer"], timings["ours"])
        yield {
            "vocab_size": shape.vocab_size,
            "steps": count,
            "peer_steps": released,
            "prompt": request.prompt,
            "answer": request.answer,
            "equal_tokens": equal,
            "fill_s": {name: timing.to_json() for name, timing in timings.items()},
            "ratio": times,
            "ratio_spread": noise,
        }


def compare_caching(
    shape: Shape, request: RequestShape, *, steps: int, cache_interval: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Time cached prompt states against full passes at every step.

    `isolated` is exact for a network trained with isolated prompts; its tokens are compared with
    those of full passes before timing. `refreshed` is an approximation.
    """
    plain = make_network(shape, seed=seed).eval()
    isolated = make_network(shape, seed=seed, isolate_prompt=True).eval()
    packed = request.make_prompts(shape, seed=seed)
    runs: dict[str, Callable[[], Tensor]] = {
        "full": lambda: sample_with_this_package(plain, packed, steps, shape),
        "refreshed": lambda: sample_with_this_package(
            plain, packed, steps, shape, cache_interval=cache_interval
        ),
        "isolated": lambda: sample_with_this_package(isolated, packed, steps, shape),
    }
    exact = sample_with_this_package(isolated, packed, steps, shape, uses_cache=False)
    equal = _share_of_equal_tokens(packed, runs["isolated"](), exact)
    timings = time_alternating(runs, repeats=repeats)
    ratios = {
        name: paired_ratio(timings["full"], t) for name, t in timings.items() if name != "full"
    }
    return {
        "vocab_size": shape.vocab_size,
        "prompt": request.prompt,
        "answer": request.answer,
        "batch": request.batch,
        "steps": steps,
        "cache_interval": cache_interval,
        "equal_tokens": equal,
        "fill_s": {name: timing.to_json() for name, timing in timings.items()},
        "ratios": {name: found[0] for name, found in ratios.items()},
        "ratios_spread": {name: found[1] for name, found in ratios.items()},
    }


def _share_of_equal_tokens(packed: PackedPrompts, one: Tensor, other: Tensor) -> float:
    """Return the share of generated tokens that are equal."""
    filled = packed.response_positions
    return float((one[filled] == other[filled]).float().mean())


def describe_row(row: dict[str, Any]) -> str:
    """Return one row in words."""
    sizes = f"{row['vocab_size']} ids, {row['answer']} tokens behind {row['prompt']}"
    seconds = {name: timing["median_s"] for name, timing in row["fill_s"].items()}
    if "ratios" in row:
        times = ", ".join(
            f"{name} {ratio:.2f} times (+- {row['ratios_spread'][name]:.2f})"
            for name, ratio in row["ratios"].items()
        )
        return (
            f"{sizes}, batch of {row['batch']}, {row['steps']} steps: full passes "
            f"{seconds['full']:.3f} s, {times}; {row['equal_tokens']:.1%} of the isolated tokens "
            "equal those of full passes"
        )
    equal = row["equal_tokens"]
    said = f"; {equal:.1%} of the tokens are equal" if equal is not None else ""
    return (
        f"{sizes}: ours {row['steps']} steps in {seconds['ours']:.3f} s, peer "
        f"{row['peer_steps']} in {seconds['peer']:.3f} s, {row['ratio']:.2f} times (+- "
        f"{row['ratio_spread']:.2f}){said}"
    )


def image_id_range(shape: Shape) -> tuple[int, int]:
    """Return the first id of image codes, and the one past the last."""
    size = min(IMAGE_IDS, shape.mask_token_id // 2)
    return shape.mask_token_id - size, shape.mask_token_id


@torch.inference_mode()
def sample_with_this_package(
    network: Transformer,
    packed: PackedPrompts,
    steps: int,
    shape: Shape,
    *,
    cache_interval: int = 1,
    uses_cache: bool = True,
) -> Tensor:
    """Unmask with this package: logits at masked positions over the allowed ids only."""
    block = torch.where(packed.ids == shape.mask_token_id, 0, -1)
    lengths, device = packed.layout.lengths, packed.ids.device
    canvas = Canvas(
        ids=packed.ids,
        sample=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device),
        block=block,
        allowed_set=block,
        allowed=(torch.arange(*image_id_range(shape), device=device),),
        num_steps=torch.full((len(lengths), 1), steps, device=device),
        mask_token_id=shape.mask_token_id,
    )
    denoise = conditional_denoiser(
        network, packed, mask_token_id=shape.mask_token_id, cache_interval=cache_interval
    )
    if not uses_cache:
        layout = network.segment_layout(lengths, block >= 0)

        def denoise(ids: Tensor, _: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            hidden = network(ids, packed.position_ids, layout)
            return lambda positions, allowed: network.logits(hidden[positions], allowed)

    seeds = canvas.num_steps.new_zeros(len(canvas.num_steps))
    out = sample(denoise, canvas, Confidence(), seeds=seeds)
    synchronize(shape.device)
    return out
