"""What was heard is at its places in every pass, whichever tokens the pass computes."""

import pytest
import torch
from small_models import SMALL

from lightning_omni.generation.canvas_builder import PackedPrompts
from lightning_omni.generation.denoiser import Guide, conditional, guided
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import Continuous

MASK, WIDTH = 29, 6
LENGTHS, HOLES, HEARD = (8, 6), [5, 6, 7, 12, 13], [1, 2, 9, 10]
BARE, BARE_HOLES, BARE_HEARD = (5, 6), [2, 3, 4, 9, 10], [6, 7]
"""The first sample is without its speech, the second with it."""


def network(*, isolate_prompt=False):
    torch.manual_seed(0)
    return Transformer(30, [], **SMALL, isolate_prompt=isolate_prompt, continuous_dim=WIDTH).eval()


def packed(lengths, holes, heard, rng):
    index = torch.cat([torch.arange(n) for n in lengths])
    ids = torch.randint(0, 29, (sum(lengths),), generator=rng)
    ids[holes] = MASK
    return PackedPrompts(
        ids,
        torch.stack((index, index * 0, index * 0), dim=1),
        SegmentLayout.from_lengths(lengths, device="cpu"),
        torch.tensor(holes),
        Continuous(torch.tensor(heard), torch.randn(len(heard), WIDTH, generator=rng)),
    )


def one_pass(model, prompts, ids):
    is_open = torch.zeros(len(ids), dtype=torch.bool)
    is_open[prompts.hole_positions] = True
    layout = model.segment_layout(prompts.layout.lengths, is_open)
    hidden = model(ids, prompts.position_ids, layout, continuous=prompts.continuous)
    return model.logits(hidden[prompts.hole_positions])


@pytest.mark.parametrize("isolate_prompt", [False, True])
@torch.no_grad()
def test_every_step_hears_also_when_samples_are_finished(rng, isolate_prompt):
    model = network(isolate_prompt=isolate_prompt)
    prompts = packed(LENGTHS, HOLES, HEARD, rng)
    denoise = conditional(model, prompts, mask_token_id=MASK)
    ids = prompts.ids.clone()
    for step, open_holes in enumerate((HOLES, HOLES[1:], HOLES[3:], HOLES[4:])):
        ids[HOLES[:step]] = 3
        where = torch.tensor(open_holes[-1:])
        if step == 2:
            ids[HOLES[:3]] = 3
        ours = denoise(ids, where)(where, torch.arange(30))
        torch.testing.assert_close(ours, one_pass(model, prompts, ids)[-1:])


@torch.no_grad()
def test_passes_over_the_hole_alone_keep_what_was_heard(rng):
    model, prompts = network(), packed(LENGTHS, HOLES, HEARD, rng)
    denoise = conditional(model, prompts, mask_token_id=MASK, refresh_every=3)
    whole, again = (
        denoise(prompts.ids, prompts.hole_positions)(prompts.hole_positions, torch.arange(30))
        for _ in "ab"
    )
    torch.testing.assert_close(again, whole)
    torch.testing.assert_close(whole, one_pass(model, prompts, prompts.ids))


@torch.no_grad()
def test_guidance_hears_in_the_prompts_that_have_speech(rng):
    model = network()
    prompts = packed(LENGTHS, HOLES, HEARD, rng)
    bare = packed(BARE, BARE_HOLES, BARE_HEARD, rng)
    denoise = guided(model, prompts, [Guide(bare, 0.7)], mask_token_id=MASK)
    with_it, without = (one_pass(model, p, p.ids) for p in (prompts, bare))
    ours = denoise(prompts.ids, prompts.hole_positions)(prompts.hole_positions, torch.arange(30))
    torch.testing.assert_close(ours, 1.7 * with_it - 0.7 * without)
