"""The NELBO that training logs: its expectation, and when there is none."""

import pytest
from test_masked_diffusion import batches, forward_process, module

from lightning_omni.diffusion.schedule import Cosine, Linear
from lightning_omni.modules.metric_breakdown import metric_breakdown

WITHOUT = [
    {"ratio_range": (0.3, 1.0)},
    {"spans": {"speech": 3}},
    {"replace_ratio": 0.1},
    {"masking": "bernoulli", "time_per": "token"},
]


def breakdown(process, vocab, batch, seed, nll_of):
    noisy = process(batch, vocab, seed=seed)
    guess = batch.ids[noisy.positions]
    return metric_breakdown(batch, noisy, nll_of(noisy), guess, vocab)


def mean_of(name, found):
    """Return the mean over batches of which some may have no such token."""
    totals, counts = zip(*(f[name] for f in found if name in f), strict=True)
    return sum(totals) / sum(counts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weighting": "none"},
        {"masking": "bernoulli", "weighting": "none"},
        {"schedules": {"text": Cosine(), "speech": Cosine(), "image": Linear()}},
    ],
)
def test_the_mean_over_answer_tokens_is_the_nelbo_whatever_the_loss_weighs(changes):
    # nats equal to the mask ratio r: the integral of r dr / r * r is 1/2, the mean of masks is 2/3
    process, vocab = forward_process(tail_pad_ratio=1.0, **changes), module().vocab
    found = [
        breakdown(process, vocab, batch, seed, lambda n: n.ratio)
        for batch in batches()  # times are spread evenly over samples
        for seed in range(40)
    ]
    assert not any("nelbo/image" in f for f in found)
    for name in ("nelbo/text", "nelbo/speech", "nelbo_task/svqa"):
        assert mean_of(name, found) == pytest.approx(0.5, abs=0.02), name
    if not changes:
        assert mean_of("loss_unweighted/speech", found) == pytest.approx(2 / 3, abs=0.04)


def test_tail_pads_are_no_part_of_it():
    process, vocab = forward_process(tail_pad_ratio=1.0), module().vocab
    batch = batches()[0]
    assert batch.is_tail_pad.any()

    def of_pads(noisy):
        return batch.is_tail_pad[noisy.positions].float()

    for seed in range(20):
        found = breakdown(process, vocab, batch, seed, of_pads)
        assert sum(total for name, (total, _) in found.items() if name.startswith("nelbo")) == 0


@pytest.mark.parametrize("changes", WITHOUT)
def test_masks_that_do_not_allow_for_it_have_none(changes):
    process, vocab = forward_process(**changes), module().vocab
    found = breakdown(process, vocab, batches()[0], 0, lambda n: n.ratio)
    assert not any(name.startswith("nelbo") for name in found)
    assert found["loss_task/svqa"][1]
