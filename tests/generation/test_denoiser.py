"""Scores depend on the prompt and on the hole, never on what was kept from the step before."""

import pytest
import torch

from lightning_omni.generation.canvas_builder import PackedPrompts
from lightning_omni.generation.denoiser import Guide, conditional, guided
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.studies.bench.workload import Shape, make_network

LENGTHS, BARE = (8, 5), (6, 4)
MASK = 29
HOLES, BARE_HOLES = [5, 6, 7, 11, 12], [3, 4, 5, 8, 9]


def network(*, isolate_prompt):
    shape = Shape(dim=192, num_layers=3, vocab_size=30)
    return make_network(shape, seed=0, isolate_prompt=isolate_prompt).eval()


def packed(lengths, holes, rng):
    index = torch.cat([torch.arange(n) for n in lengths])
    return PackedPrompts(
        torch.randint(0, 29, (sum(lengths),), generator=rng),
        torch.stack((index, index * 0, index * 0), dim=1),
        SegmentLayout.from_lengths(lengths, device="cpu"),
        torch.tensor(holes),
    )


def canvases(prompts, rng, count=4):
    """Holes with tokens, and a mask in each."""
    for _ in range(count):
        ids = prompts.ids.clone()
        ids[prompts.hole_positions] = torch.randint(0, MASK, (len(HOLES),), generator=rng)
        ids[[HOLES[0], HOLES[-1]]] = MASK
        yield ids


def one_pass(model, prompts, ids):
    is_open = torch.zeros(len(ids), dtype=torch.bool)
    is_open[prompts.hole_positions] = True
    hidden = model(ids, prompts.position_ids, model.segment_layout(prompts.layout.lengths, is_open))
    return model.logits(hidden[prompts.hole_positions])


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_every_step_is_that_of_a_whole_pass(rng, isolate_prompt):
    model, prompts = network(isolate_prompt=isolate_prompt), packed(LENGTHS, HOLES, rng)
    denoise = conditional(model, prompts, mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        ours = denoise(ids, prompts.hole_positions)(prompts.hole_positions, torch.arange(30))
        torch.testing.assert_close(ours, one_pass(model, prompts, ids))


@torch.no_grad()
def test_an_isolated_prompt_is_computed_once(rng, monkeypatch):
    model, prompts = network(isolate_prompt=True), packed(LENGTHS, HOLES, rng)
    seen, forward = [], Transformer.forward
    monkeypatch.setattr(
        Transformer,
        "forward",
        lambda self, ids, *rest, **named: (
            seen.append(len(ids)) or forward(self, ids, *rest, **named)
        ),
    )
    denoise = conditional(model, prompts, mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        denoise(ids, prompts.hole_positions)
    assert seen == [13, 5, 5, 5]


@pytest.mark.parametrize(
    ("isolate_prompt", "refresh_every", "computed"),
    [(False, 1, [13, 8, 8, 8]), (True, 1, [13, 3, 3, 3]), (False, 2, [13, 3, 8, 3])],
)
@torch.no_grad()
def test_a_finished_segment_is_not_computed_again(
    rng, monkeypatch, isolate_prompt, refresh_every, computed
):
    model, prompts = network(isolate_prompt=isolate_prompt), packed(LENGTHS, HOLES, rng)
    seen, forward = [], Transformer.forward

    def counting(self, ids, *rest, **named):
        seen.append(len(ids))
        return forward(self, ids, *rest, **named)

    denoise = conditional(
        model, prompts, mask_token_id=MASK, refresh_every=refresh_every, dtype=torch.float32
    )
    first, left = torch.arange(30), torch.tensor(HOLES[:3])
    for step, ids in enumerate(canvases(prompts, rng)):
        with monkeypatch.context() as patch:
            patch.setattr(Transformer, "forward", counting)
            ids[HOLES[3:]] = MASK if step == 0 else 7
            ours = denoise(ids, left)(left, first)
        if isolate_prompt or refresh_every == 1:
            expected = one_pass(model, prompts, ids)[:3]
            torch.testing.assert_close(ours, expected)
    assert seen == computed


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_guidance_moves_away_from_the_bare_prompt_hole_by_hole(rng, isolate_prompt):
    model = network(isolate_prompt=isolate_prompt)
    prompts, bare = packed(LENGTHS, HOLES, rng), packed(BARE, BARE_HOLES, rng)
    denoise = guided(model, prompts, [Guide(bare, 0.7)], mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        bare_ids = bare.ids.clone()
        bare_ids[bare.hole_positions] = ids[prompts.hole_positions]
        expected = 1.7 * one_pass(model, prompts, ids) - 0.7 * one_pass(model, bare, bare_ids)
        ours = denoise(ids, prompts.hole_positions)(prompts.hole_positions, torch.arange(30))
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_guidance_that_fades_counts_open_places_of_holes_only(rng):
    """What is hidden in a prompt and what is given in a hole are not open."""
    model = network(isolate_prompt=False)
    prompts, bare = packed(LENGTHS, HOLES, rng), packed(BARE, BARE_HOLES, rng)
    prompts.ids[HOLES], prompts.ids[[0, 1]] = MASK, MASK
    prompts.ids[HOLES[0]] = bare.ids[BARE_HOLES[0]] = 7
    denoise = guided(model, prompts, [Guide(bare, 1.0, 0.0)], mask_token_id=MASK)
    ids = prompts.ids.clone()
    ids[HOLES[1]] = 3
    bare_ids = bare.ids.clone()
    bare_ids[bare.hole_positions] = ids[prompts.hole_positions]
    first = slice(0, 3)
    with_condition = one_pass(model, prompts, ids)[first]
    without = one_pass(model, bare, bare_ids)[first]
    ours = denoise(ids, prompts.hole_positions)(prompts.hole_positions[first], torch.arange(30))
    torch.testing.assert_close(ours, with_condition + 0.5 * (with_condition - without))


@torch.no_grad()
def test_a_fading_scale_follows_the_share_of_open_positions_of_each_sample(rng):
    model = network(isolate_prompt=False)
    prompts, bare = packed(LENGTHS, HOLES, rng), packed(BARE, BARE_HOLES, rng)
    prompts.ids[prompts.hole_positions] = MASK
    guide = Guide(bare, 2.0, final_scale=0.5)
    denoise = guided(model, prompts, [guide], mask_token_id=MASK)
    ids = prompts.ids.clone()
    ids[HOLES[1:3]] = 4  # one of three positions is open in the first sample, both in the second
    bare_ids = bare.ids.clone()
    bare_ids[bare.hole_positions] = ids[prompts.hole_positions]
    scale = torch.tensor([1.0] * 3 + [2.0] * 2)[:, None]
    with_it, without = one_pass(model, prompts, ids), one_pass(model, bare, bare_ids)
    ours = denoise(ids, prompts.hole_positions)(prompts.hole_positions, torch.arange(30))
    torch.testing.assert_close(ours, with_it + scale * (with_it - without))
