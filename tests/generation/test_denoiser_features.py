"""Speech features are at their positions in every pass, whichever tokens the pass computes."""

import pytest
import torch
from small_models import SMALL

from lightning_omni.generation.denoiser import conditional_denoiser, guided_denoiser
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import ContinuousFeatures

MASK, WIDTH = 29, 6
LENGTHS, SPANS, FEATURES = (8, 6), [5, 6, 7, 12, 13], [1, 2, 9, 10]
BARE, BARE_SPANS, BARE_FEATURES = (5, 6), [2, 3, 4, 9, 10], [6, 7]
"""The first sample is without its speech, the second with it."""


def network(*, isolate_prompt=False):
    torch.manual_seed(0)
    return Transformer(30, [], **SMALL, isolate_prompt=isolate_prompt, continuous_dim=WIDTH).eval()


def packed(lengths, responses, features, rng):
    index = torch.cat([torch.arange(n) for n in lengths])
    ids = torch.randint(0, 29, (sum(lengths),), generator=rng)
    ids[responses] = MASK
    return PackedPrompts(
        ids,
        torch.stack((index, index * 0, index * 0), dim=1),
        SegmentLayout.from_lengths(lengths, device="cpu"),
        torch.tensor(responses),
        ContinuousFeatures(
            torch.tensor(features), torch.randn(len(features), WIDTH, generator=rng)
        ),
    )


def one_pass(model, prompts, ids):
    is_masked = torch.zeros(len(ids), dtype=torch.bool)
    is_masked[prompts.response_positions] = True
    layout = model.segment_layout(prompts.layout.lengths, is_masked)
    hidden = model(ids, prompts.position_ids, layout, continuous=prompts.continuous)
    return model.logits(hidden[prompts.response_positions])


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_every_step_has_the_features_also_when_samples_are_finished(rng, isolate_prompt):
    model = network(isolate_prompt=isolate_prompt)
    prompts = packed(LENGTHS, SPANS, FEATURES, rng)
    denoise = conditional_denoiser(model, prompts, mask_token_id=MASK)
    ids = prompts.ids.clone()
    for step, remaining in enumerate((SPANS, SPANS[1:], SPANS[3:], SPANS[4:])):
        ids[SPANS[:step]] = 3
        positions = torch.tensor(remaining[-1:])
        if step == 2:
            ids[SPANS[:3]] = 3
        ours = denoise(ids, positions)(positions, torch.arange(30))
        torch.testing.assert_close(ours, one_pass(model, prompts, ids)[-1:])


@torch.no_grad()
def test_passes_over_the_response_alone_keep_the_features(rng):
    model, prompts = network(), packed(LENGTHS, SPANS, FEATURES, rng)
    denoise = conditional_denoiser(model, prompts, mask_token_id=MASK, cache_interval=3)
    whole, again = (
        denoise(prompts.ids, prompts.response_positions)(
            prompts.response_positions, torch.arange(30)
        )
        for _ in "ab"
    )
    torch.testing.assert_close(again, whole)
    torch.testing.assert_close(whole, one_pass(model, prompts, prompts.ids))


@torch.no_grad()
def test_guidance_has_the_features_in_the_prompts_with_speech(rng):
    model = network()
    prompts = packed(LENGTHS, SPANS, FEATURES, rng)
    bare = packed(BARE, BARE_SPANS, BARE_FEATURES, rng)
    denoise = guided_denoiser(model, prompts, bare, 0.7, mask_token_id=MASK)
    with_it, without = (one_pass(model, p, p.ids) for p in (prompts, bare))
    ours = denoise(prompts.ids, prompts.response_positions)(
        prompts.response_positions, torch.arange(30)
    )
    torch.testing.assert_close(ours, 1.7 * with_it - 0.7 * without)
