import math

import numpy as np
import pytest
import torch

from lightning_omni.data.packing import collate
from lightning_omni.diffusion.forward_process import ForwardProcess
from lightning_omni.diffusion.noise import complementary_index
from lightning_omni.diffusion.schedule import Cosine, Linear, Polynomial, Shifted
from lightning_omni.errors import OmniError
from lightning_omni.types import TokenSequence
from lightning_omni.vocab import Vocab

VOCAB = Vocab(40, {"speech": 20, "image": 30})
SCHEDULES = [Linear(), Cosine(), Polynomial(2.0), Shifted(Linear(), 3.0)]


def process(schedule=None, **changes):
    schedules = dict.fromkeys(VOCAB.modalities, schedule or Linear())
    return ForwardProcess(schedules, **changes)


def batch(indices, *, modality="speech", length=12, prompt=3, codebooks=1):
    """One row per sample index: a prompt, then an answer of one modality."""
    start = VOCAB.span(modality).start
    size = prompt + length
    answer = np.arange(size) >= prompt
    index = VOCAB.modalities.index(modality)
    sequence = TokenSequence(
        np.array([1] * prompt + [start + i % 10 for i in range(length)]),
        np.array([(i, 0, 0) for i in range(size)]),
        answer,
        np.zeros_like(answer),
        np.where(answer, index, -1),
        0,
        "s",
    )
    rows = [[(i, sequence)] for i in indices]
    pad = VOCAB.pad_token_id
    return collate(rows, row_length=size, pad_token_id=pad, codebooks=codebooks)


def masks(noisy, rows, prompt=3):
    """Which answer tokens are masked, Bool[rows, length]."""
    return (noisy.x_t == VOCAB.mask_token_id).view(rows, -1)[:, prompt:]


def shares(forward, *, length=256, count=200):
    noisy = forward(batch(range(count), length=length), VOCAB, seed=3)
    return masks(noisy, count).float().mean(1)


@pytest.mark.parametrize("masking", ["fixed_count", "bernoulli"])
def test_one_time_a_segment_covers_all_mask_ratios_and_one_a_token_does_not(masking):
    per_segment = shares(process(masking=masking))
    assert per_segment.min() < 0.02
    assert per_segment.max() > 0.98
    released = shares(process(masking="bernoulli", time_per="token"))
    assert released.min() > 0.35
    assert released.max() < 0.65


@pytest.mark.parametrize("masking", ["fixed_count", "bernoulli"])
def test_a_complement_masks_what_its_pair_shows(masking):
    both = [v for i in range(50) for v in (i, complementary_index(i))]
    noisy = process(masking=masking)(batch(both), VOCAB, seed=1)
    hidden = masks(noisy, len(both))
    one, other = hidden[::2], hidden[1::2]
    assert (one | other).all()
    in_both = (one & other).sum(1)
    # counts from 1 to L of each, L + 1 together, so that every count is as likely in both
    assert (in_both == (1 if masking == "fixed_count" else 0)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("masking", ["fixed_count", "bernoulli"])
def test_pairs_are_unbiased(schedule, masking):
    """For a network whose nats depend on how much it sees, and how much is which token's."""
    length, count = 6, 12_000
    cost = torch.linspace(0.5, 2.0, length)

    def nelbo(indices):
        noisy = process(schedule, masking=masking)(
            batch(indices, length=length, prompt=0), VOCAB, seed=2
        )
        hidden = masks(noisy, len(indices), prompt=0)
        seen = (~hidden).sum(1, keepdim=True)
        nats = (cost / (1 + seen)).flatten()[noisy.positions]
        return (nats * noisy.weight).sum() / (len(indices) * length)

    plain = nelbo(list(range(count)))
    pairs = nelbo([v for i in range(count // 2) for v in (i, complementary_index(i))])
    exact = sum(cost.mean().item() / (1 + length - k) for k in range(1, length + 1)) / length
    assert plain.item() == pytest.approx(exact, rel=0.03)
    assert pairs.item() == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("ratio_range", [(0.0, 1.0), (0.3, 0.8), (0.5, 1.0)])
def test_ratios_stay_in_their_range_and_a_uniform_network_costs_log_v(schedule, ratio_range):
    length, count = 100, 1500
    noisy = process(schedule, ratio_range=ratio_range)(
        batch(range(count), length=length, prompt=0), VOCAB, seed=5
    )
    seen = masks(noisy, count, prompt=0).float().mean(1)
    low, high = ratio_range
    assert low - 0.01 <= seen.min() < low + 0.06
    assert high - 0.05 < seen.max() <= high + 0.01
    nats = math.log(30) * noisy.weight.sum() / (count * length)
    assert nats.item() == pytest.approx(math.log(30), rel=0.02)


def test_spans_are_masked_together_and_counts_stay_exact():
    plain, spans = process(), process(spans={"speech": 4})
    rows = batch(range(300), length=64)
    one, other = (masks(p(rows, VOCAB, seed=1), 300) for p in (plain, spans))
    assert torch.equal(one.sum(1), other.sum(1))
    changes = [(m[:, 1:] != m[:, :-1]).sum().item() for m in (one, other)]
    assert changes[1] < 0.35 * changes[0]


@pytest.mark.parametrize("masking", ["fixed_count", "bernoulli"])
@pytest.mark.parametrize("size", [2, 5])
def test_every_token_of_a_span_is_masked_equally_often(size, masking):
    length, count = 7, 8000
    forward = process(masking=masking, spans={"speech": size})
    noisy = forward(batch(range(count), length=length, prompt=0), VOCAB, seed=3)
    share = masks(noisy, count, prompt=0).double().mean(0)
    mean = 0.5 * (1 + (masking == "fixed_count") / length)
    assert ((share - mean).abs() < 4.5 * 0.5 / count**0.5).all()


def test_a_complement_masks_what_its_pair_shows_also_within_a_span():
    both = [v for i in range(200) for v in (i, complementary_index(i))]
    noisy = process(spans={"speech": 4})(batch(both), VOCAB, seed=1)
    one, other = masks(noisy, len(both))[::2], masks(noisy, len(both))[1::2]
    assert (one | other).all()
    assert ((one & other).sum(1) == 1).all()


def test_replaced_tokens_keep_their_modality_and_visible_ones_have_a_loss():
    rows = batch(range(400), length=50)
    noisy = process(replace_ratio=0.2)(rows, VOCAB, seed=4)
    x0 = rows.ids
    visible = rows.maskable & (noisy.x_t != VOCAB.mask_token_id)
    wrong = visible & (noisy.x_t != x0)
    # a random code is the true one once in 20
    assert wrong.sum() / visible.sum() == pytest.approx(0.2 * 19 / 20, abs=0.02)
    span = VOCAB.span("speech")
    assert ((noisy.x_t[wrong] >= span.start) & (noisy.x_t[wrong] < span.stop)).all()
    assert torch.equal(noisy.positions, rows.maskable.nonzero().squeeze(1))
    assert (noisy.weight[~noisy.is_masked] == 1).all()
    assert torch.equal(noisy.is_masked, noisy.x_t[noisy.positions] == VOCAB.mask_token_id)
    prompt = ~rows.maskable
    assert torch.equal(noisy.x_t[prompt], x0[prompt])


def test_a_replaced_code_stays_in_its_codebook():
    rows = batch(range(50), length=40, codebooks=2)
    noisy = process(replace_ratio=1.0)(rows, VOCAB, seed=4)
    span, x0 = VOCAB.span("speech"), rows.ids
    visible = rows.maskable & (noisy.x_t != VOCAB.mask_token_id)
    book = (torch.stack((noisy.x_t, x0))[:, visible] - span.start) // 10
    assert torch.equal(book[0], book[1])


def test_without_weights_every_mask_counts_alike():
    noisy = process(weighting="none")(batch(range(20)), VOCAB, seed=1)
    assert (noisy.weight == 1).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ratio_range": (0.5, 0.5)}, "ratio_range is"),
        ({"time_per": "token"}, "masking: bernoulli"),
        ({"spans": {"speech": 0}}, "spans.speech"),
        ({"replace_ratio": 1.5}, "replace_ratio"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, match):
    with pytest.raises(OmniError, match=match):
        process(**changes)
