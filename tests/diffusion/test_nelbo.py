"""On a world that can be enumerated, the bound of the exact posterior is the likelihood itself."""

import itertools
import math

import pytest
import torch

from lightning_omni.diffusion.nelbo import (
    nelbo_mask,
    nelbo_per_segment,
    stratified_mask_ratios,
)

VOCAB, LENGTH = 3, 4
MASK = VOCAB
WORLD = list(itertools.product(range(VOCAB), repeat=LENGTH))


@pytest.fixture
def joint(rng):
    """A table of probabilities of all sequences."""
    return torch.rand(len(WORLD), generator=rng, dtype=torch.float64).pow(3).softmax(0)


def exact_nats(joint, x_t, x0):
    """-log p(x0_i | visible tokens) at each mask, from the table."""
    world = torch.tensor(WORLD)
    fits = ((world == x_t) | (x_t == MASK)).all(1)
    masked = (x_t == MASK).nonzero().squeeze(1)
    total = joint[fits].sum()
    return torch.stack(
        [-(joint[fits & (world[:, i] == x0[i])].sum() / total).log() for i in masked]
    )


def test_by_full_enumeration_the_bound_is_the_entropy(joint):
    entropy = -(joint * joint.log()).sum()
    bound = torch.zeros((), dtype=torch.float64)
    for p, sequence in zip(joint, WORLD, strict=True):
        x0 = torch.tensor(sequence)
        for count in range(1, LENGTH + 1):
            subsets = list(itertools.combinations(range(LENGTH), count))
            for subset in subsets:
                x_t = x0.clone()
                x_t[list(subset)] = MASK
                nats = exact_nats(joint, x_t, x0).sum()
                bound += p * LENGTH / count * nats / len(subsets) / LENGTH
    torch.testing.assert_close(bound, entropy)


def test_the_estimate_comes_to_each_sequence_s_own_likelihood(joint):
    draws = 4000
    x0 = torch.tensor(WORLD[17] + WORLD[60])
    segment = torch.tensor([0] * LENGTH + [1] * LENGTH)
    position = torch.arange(LENGTH).repeat(2)
    index, core = torch.tensor([5, 9]), torch.ones(2 * LENGTH, dtype=torch.bool)
    total = torch.zeros(2, dtype=torch.float64)
    for draw, level in enumerate(stratified_mask_ratios(0, index, draws=draws)):
        is_masked, factor = nelbo_mask(0, index, level, core, segment, position, draw=draw)
        x_t = x0.masked_fill(is_masked, MASK)
        nats = torch.cat([exact_nats(joint, x_t[s], x0[s]) for s in (slice(4), slice(4, 8))])
        total += nelbo_per_segment(nats, segment[is_masked], factor.double())
    expected = -joint[[17, 60]].log()
    torch.testing.assert_close(total / draws, expected, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_uniform_model_costs_log_v_a_token_at_every_count(length):
    index, core = torch.tensor([3]), torch.ones(length, dtype=torch.bool)
    where = torch.zeros(length, dtype=torch.long), torch.arange(length)
    for draw, level in enumerate(stratified_mask_ratios(1, index, draws=7)):
        is_masked, factor = nelbo_mask(1, index, level, core, *where, draw=draw)
        nats = torch.full((int(is_masked.sum()),), math.log(VOCAB))
        bound = nelbo_per_segment(nats, where[0][is_masked], factor)
        assert bound.item() == pytest.approx(length * math.log(VOCAB))


def test_ratios_hit_every_stratum_once_and_every_count_equally_often():
    index = torch.arange(300)
    ratios = stratified_mask_ratios(0, index, draws=10)
    assert ((ratios * 10).ceil().sort(dim=0).values == torch.arange(1, 11)[:, None]).all()
    counts = (ratios * 5).ceil().long().flatten().bincount(minlength=6)[1:]
    assert counts.tolist() == [600] * 5
    assert ratios[0].std() > 0.02


def test_only_the_core_is_masked():
    core = torch.tensor([False, True, True, False])
    where = torch.zeros(4, dtype=torch.long), torch.arange(4)
    level = torch.ones(1)
    is_masked, factor = nelbo_mask(0, torch.tensor([1]), level, core, *where, draw=0)
    assert torch.equal(is_masked, core)
    assert factor.item() == 1
