"""Logits depend on the prompt and the response, never on what was cached in the step before."""

import pytest
import torch

from lightning_omni.generation.denoiser import conditional_denoiser, guided_denoiser
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.studies.bench.workload import Shape, make_network

LENGTHS, BARE = (8, 5), (6, 4)
MASK = 29
SPANS, BARE_SPANS = [5, 6, 7, 11, 12], [3, 4, 5, 8, 9]


def network(*, isolate_prompt):
    shape = Shape(dim=192, num_layers=3, vocab_size=30)
    return make_network(shape, seed=0, isolate_prompt=isolate_prompt).eval()


def packed(lengths, responses, rng):
    index = torch.cat([torch.arange(n) for n in lengths])
    return PackedPrompts(
        torch.randint(0, 29, (sum(lengths),), generator=rng),
        torch.stack((index, index * 0, index * 0), dim=1),
        SegmentLayout.from_lengths(lengths, device="cpu"),
        torch.tensor(responses),
    )


def canvases(prompts, rng, count=4):
    """Yield ids whose responses hold tokens, and a mask each."""
    for _ in range(count):
        ids = prompts.ids.clone()
        ids[prompts.response_positions] = torch.randint(0, MASK, (len(SPANS),), generator=rng)
        ids[[SPANS[0], SPANS[-1]]] = MASK
        yield ids


def one_pass(model, prompts, ids):
    is_masked = torch.zeros(len(ids), dtype=torch.bool)
    is_masked[prompts.response_positions] = True
    hidden = model(
        ids, prompts.position_ids, model.segment_layout(prompts.layout.lengths, is_masked)
    )
    return model.logits(hidden[prompts.response_positions])


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_every_step_is_that_of_a_whole_pass(rng, isolate_prompt):
    model, prompts = network(isolate_prompt=isolate_prompt), packed(LENGTHS, SPANS, rng)
    denoise = conditional_denoiser(model, prompts, mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        ours = denoise(ids, prompts.response_positions)(
            prompts.response_positions, torch.arange(30)
        )
        torch.testing.assert_close(ours, one_pass(model, prompts, ids))


@torch.no_grad()
def test_an_isolated_prompt_is_computed_once(rng, monkeypatch):
    model, prompts = network(isolate_prompt=True), packed(LENGTHS, SPANS, rng)
    seen, forward = [], Transformer.forward
    monkeypatch.setattr(
        Transformer,
        "forward",
        lambda self, ids, *rest, **named: (
            seen.append(len(ids)) or forward(self, ids, *rest, **named)
        ),
    )
    denoise = conditional_denoiser(model, prompts, mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        denoise(ids, prompts.response_positions)
    assert seen == [13, 5, 5, 5]


@pytest.mark.parametrize(
    ("isolate_prompt", "cache_interval", "computed"),
    [(False, 1, [13, 8, 8, 8]), (True, 1, [13, 3, 3, 3]), (False, 2, [13, 3, 8, 3])],
)
@torch.no_grad()
def test_a_finished_segment_is_not_computed_again(
    rng, monkeypatch, isolate_prompt, cache_interval, computed
):
    model, prompts = network(isolate_prompt=isolate_prompt), packed(LENGTHS, SPANS, rng)
    seen, forward = [], Transformer.forward

    def counting(self, ids, *rest, **named):
        seen.append(len(ids))
        return forward(self, ids, *rest, **named)

    denoise = conditional_denoiser(
        model, prompts, mask_token_id=MASK, cache_interval=cache_interval, dtype=torch.float32
    )
    first, left = torch.arange(30), torch.tensor(SPANS[:3])
    for step, ids in enumerate(canvases(prompts, rng)):
        with monkeypatch.context() as patch:
            patch.setattr(Transformer, "forward", counting)
            ids[SPANS[3:]] = MASK if step == 0 else 7
            ours = denoise(ids, left)(left, first)
        if isolate_prompt or cache_interval == 1:
            expected = one_pass(model, prompts, ids)[:3]
            torch.testing.assert_close(ours, expected)
    assert seen == computed


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_guidance_moves_away_from_the_unconditional_prompt_position_by_position(
    rng, isolate_prompt
):
    model = network(isolate_prompt=isolate_prompt)
    prompts, bare = packed(LENGTHS, SPANS, rng), packed(BARE, BARE_SPANS, rng)
    denoise = guided_denoiser(model, prompts, bare, 0.7, mask_token_id=MASK)
    for ids in canvases(prompts, rng):
        bare_ids = bare.ids.clone()
        bare_ids[bare.response_positions] = ids[prompts.response_positions]
        expected = 1.7 * one_pass(model, prompts, ids) - 0.7 * one_pass(model, bare, bare_ids)
        ours = denoise(ids, prompts.response_positions)(
            prompts.response_positions, torch.arange(30)
        )
        torch.testing.assert_close(ours, expected)
