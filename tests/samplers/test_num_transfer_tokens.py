"""How many positions a step commits, against the rules as written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.errors import OmniError
from lightning_omni.samplers.ancestral import Ancestral
from lightning_omni.samplers.canvas import StepTimes
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.samplers.factor import Factor
from lightning_omni.samplers.klass import KLASS
from lightning_omni.samplers.maskgit import MaskGIT
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.samplers.threshold import Threshold

SAMPLES = st.lists(
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8), min_size=1, max_size=4
)


def flat(samples, value):
    confidence = torch.tensor([value(p) for ps in samples for p in ps], dtype=torch.float64)
    sample = torch.tensor([n for n, ps in enumerate(samples) for _ in ps])
    return confidence, sample


def early(*num_masked):
    """A times at which the schedule commits one position."""
    ones = torch.ones(len(num_masked))
    return StepTimes(ones, 0.999 * ones, torch.tensor(num_masked))


def num_transfer_tokens(sampler, samples, value=float):
    return sampler.num_transfer_tokens(early(*map(len, samples)), *flat(samples, value)).tolist()


@given(SAMPLES, st.floats(0.05, 3))
def test_the_factor_rule_takes_the_largest_set_that_is_sure_together(samples, factor):
    def rule(ps):
        ps = sorted(ps, reverse=True)
        fits = [n for n in range(1, len(ps) + 1) if (n + 1) * (1 - ps[n - 1]) < factor]
        return max([1, *fits])

    assert num_transfer_tokens(Factor(factor), samples) == [rule(ps) for ps in samples]


@given(SAMPLES, st.floats(0, 3))
def test_the_entropy_bound_takes_the_largest_set_within_it(samples, bound):
    def rule(entropies):
        ordered = sorted(entropies)
        fits = [n for n in range(1, len(ordered) + 1) if sum(ordered[: n - 1]) <= bound + 1e-12]
        return max([1, *fits])

    def close(ps):  # a sum that meets the bound may fall on either side
        ordered = sorted(ps)
        return any(abs(sum(ordered[:n]) - bound) < 1e-9 for n in range(len(ps)))

    if not any(map(close, samples)):
        found = num_transfer_tokens(EntropyBounded(bound), samples, lambda entropy: -entropy)
        assert found == [rule(ps) for ps in samples]


def test_entropies_of_other_samples_do_not_swallow_small_ones():
    own = [1e-17, 2e-17, 3e-17]
    alone = num_transfer_tokens(EntropyBounded(0.0), [own], lambda entropy: -entropy)
    assert alone == [1]
    assert (
        num_transfer_tokens(EntropyBounded(0.0), [[5.0], own], lambda entropy: -entropy)[1:]
        == alone
    )


@given(SAMPLES, st.floats(0, 1))
def test_the_threshold_takes_whatever_reaches_it(samples, threshold):
    wanted = [max(1, sum(p >= threshold for p in ps)) for ps in samples]
    assert num_transfer_tokens(Threshold(threshold), samples) == wanted


@pytest.mark.parametrize("sampler", [Threshold(0.99), Factor(0.01), EntropyBounded(0.0)])
def test_the_schedule_s_number_is_committed_in_any_case(sampler):
    confidence, sample = torch.full((6,), -0.5), torch.tensor([0, 0, 0, 1, 1, 1])
    times = StepTimes(torch.ones(2), torch.tensor([1 / 3, 0.0]), torch.tensor([3, 3]))
    assert sampler.num_transfer_tokens(times, confidence, sample).tolist() == [2, 3]


@pytest.mark.parametrize("sampler", [Ancestral, MaskGIT, Confidence, KLASS, ReMDM, EntropyPenalty])
@pytest.mark.parametrize("temperature", [-1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(sampler, temperature):
    with pytest.raises(OmniError, match="temperature is"):
        sampler(temperature=temperature)


@pytest.mark.parametrize("sampler", [Confidence, EntropyPenalty])
@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_p": -0.5}, {"top_p": 1.5}])
def test_a_truncation_that_leaves_nothing_is_refused(sampler, wrong):
    (name,) = wrong
    with pytest.raises(OmniError, match=f"{name} is"):
        sampler(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"repetition_penalty": 0.0}, {"position_penalty": -1.0}, {"free_positions": -1}]
)
def test_penalties_that_divide_by_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(OmniError, match=f"{name} is"):
        EntropyPenalty(**wrong)


def test_noise_that_grows_backwards_is_refused():
    with pytest.raises(OmniError, match="noise is"):
        MaskGIT(noise=-1.0)


def test_knobs_out_of_range_are_refused():
    with pytest.raises(OmniError, match="factor is -1"):
        Factor(-1.0)
    with pytest.raises(OmniError, match="bound is -1"):
        EntropyBounded(-1.0)
