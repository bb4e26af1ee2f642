"""A history replays a run, whatever the sampler did."""

import pytest
import torch
from histories import replay_history
from small_world import LENGTH, MASK, empty_canvas, make_joint, posterior_denoiser

from lightning_omni.generation.history import History
from lightning_omni.samplers import loop
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.remdm import ReMDM


@pytest.mark.parametrize("sampler", [Confidence(), ReMDM(0.9, "rescale"), ReMDM(0.5, "confidence")])
def test_a_history_leads_from_the_masks_to_every_step(sampler):
    canvas, states = empty_canvas(3, steps=8), []
    history = History(canvas)

    def observe(event):
        history.add_step(event)
        states.append(event.ids)

    ids = loop.sample(
        posterior_denoiser(make_joint()), canvas, sampler, seeds=torch.arange(3), on_step=observe
    )
    for n in range(3):
        span = slice(n * LENGTH, (n + 1) * LENGTH)
        changes, masks = history.changes_within(span), [MASK] * LENGTH
        assert replay_history(changes, masks, mask_token_id=MASK) == ids[span].tolist()
        for step, state in enumerate(states, start=1):
            found = replay_history(changes, masks, mask_token_id=MASK, num_steps=step)
            assert found == state[span].tolist()
