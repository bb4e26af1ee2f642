"""Numbers of the reference release: its network, its loss and its sampler."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lightning_omni.interop.dream import load_dream
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.samplers.canvas import Canvas, split_into_blocks
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.samplers.loop import sample
from lightning_omni.samplers.margin import Margin

FOLDER = Path(__file__).parents[3] / "shared" / "parity" / "dream_tiny"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reference numbers are not here")


def forward(model, ids, lengths):
    index = torch.cat([torch.arange(n) for n in lengths])
    places = torch.stack((index, index * 0, index * 0), dim=1)
    return model.logits(model(ids, places, SegmentLayout.from_lengths(lengths, device="cpu")))


@torch.no_grad()
def test_logits_of_a_single_and_of_packed_sequences_are_the_reference_s():
    model, case = load_dream(FOLDER), load_file(FOLDER / "forward.safetensors")
    single = forward(model, case["single.input_ids"][0], [40])
    torch.testing.assert_close(single, case["single.logits"][0], atol=1e-4, rtol=0)
    position = case["packed.position_ids"][0]
    starts = [*(position == 0).nonzero().squeeze(1).tolist(), len(position)]
    lengths = [b - a for a, b in pairwise(starts)]
    packed = forward(model, case["packed.input_ids"][0], lengths)
    torch.testing.assert_close(packed, case["packed.logits"][0], atol=1e-4, rtol=0)
    labels = case["packed.labels"][0]
    loss = F.cross_entropy(packed[:-1], labels[1:], ignore_index=-100)
    torch.testing.assert_close(loss, case["packed.loss"].squeeze(), atol=1e-5, rtol=0)


def runs():
    """Every run of the release."""
    if not FOLDER.is_dir():
        return []
    return json.loads((FOLDER / "sampling.json").read_text())["runs"]


def sampler_of(settings):
    kept = {"top_p": settings["top_p"], "top_k": settings["top_k"]}
    if settings["alg"] == "maskgit_plus":
        return Confidence(**kept)
    if settings["alg"] == "topk_margin":
        return Margin(**kept)
    return EntropyPenalty(
        **kept,
        repetition_penalty=settings.get("repeat_penalty", 1.0),
        position_penalty=settings.get("max_position_penalty", 1.0),
    )


@torch.no_grad()
@pytest.mark.parametrize("run", runs(), ids=lambda r: str(sorted(r["settings"].items()))[:60])
def test_sampled_tokens_are_the_reference_s(run):
    spec, settings = json.loads((FOLDER / "sampling.json").read_text()), run["settings"]
    model, mask = load_dream(FOLDER), spec["mask_token_id"]
    size, prompt = settings["max_new_tokens"], spec["prompt_ids"]
    total = len(prompt) + size

    def denoise(ids, _):
        logits = forward(model, ids, [total])
        return lambda where, allowed: logits[where - 1][:, allowed]

    block = torch.tensor([-1] * len(prompt) + [0] * size)
    canvas = Canvas(
        torch.tensor(prompt + [mask] * size),
        torch.zeros(total, dtype=torch.long),
        block,
        block,
        (torch.arange(512),),
        torch.tensor([[min(settings["steps"], size)]]),
        mask,
    )
    if "block_size" in settings:
        canvas = split_into_blocks(canvas, settings["block_size"])
    sampler, seeds, steps = sampler_of(settings), torch.zeros(1, dtype=torch.long), []
    ids = sample(
        denoise, canvas, sampler, seeds=seeds, on_step=lambda e: steps.append(e.ids[-size:])
    )
    left = [size, *(int((x == mask).sum()) for x in steps)]
    assert [a - b for a, b in pairwise(left)] == run["committed_per_step"]
    assert steps[0].tolist() == run["first_step"]
    assert run["middle_step"] in [x.tolist() for x in steps]
    assert ids[-size:].tolist() == run["output"]
