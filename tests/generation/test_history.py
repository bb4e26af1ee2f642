"""A trace replays a run, whatever the sampler did."""

import pytest
import torch
from lightning_omni.samplers.token_editing import TokenEditing
from small_world import LENGTH, MASK, empty_canvas, make_joint, posterior_denoiser

from lightning_omni.generation.history import Trace, replay
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.loop import fill
from lightning_omni.samplers.remdm import ReMDM


@pytest.mark.parametrize(
    "sampler", [Confidence(), ReMDM(0.9, "rescale"), TokenEditing(ReMDM(0.5), 0.4)]
)
def test_a_trace_leads_from_the_masks_to_every_step(sampler):
    canvas, states = empty_canvas(3, steps=8), []
    trace = Trace(canvas)

    def watch(event):
        trace.add(event)
        states.append(event.ids)

    ids = fill(
        posterior_denoiser(make_joint()), canvas, sampler, seeds=torch.arange(3), on_step=watch
    )
    for n in range(3):
        span = slice(n * LENGTH, (n + 1) * LENGTH)
        changes, masks = trace.of(span), [MASK] * LENGTH
        assert replay(changes, masks, mask_token_id=MASK) == ids[span].tolist()
        for step, state in enumerate(states, start=1):
            found = replay(changes, masks, mask_token_id=MASK, num_steps=step)
            assert found == state[span].tolist()
