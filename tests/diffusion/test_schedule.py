import pytest
import torch

from lightning_omni.diffusion.schedule import (
    T_MIN,
    Cosine,
    Linear,
    NoiseSchedule,
    Polynomial,
    Shifted,
)
from lightning_omni.errors import OmniError

SCHEDULES = [
    *(Linear(), Cosine(), Polynomial(2.0), Polynomial(0.5)),
    *(Shifted(Cosine(), 3.0), Shifted(Polynomial(0.5), 3.0), Shifted(Linear(), 0.2)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_everything_is_kept_at_zero_and_masked_at_one(schedule: NoiseSchedule):
    ends = schedule.alpha(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_weight_is_the_log_derivative_of_the_mask_ratio(schedule: NoiseSchedule):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.weight(t), -slope / (1 - alpha), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_expected_weighted_mask_count_is_one_per_token_for_every_schedule(schedule):
    # E over t of weight(t) * P(masked at t) = integral of -alpha' = 1; what the clamp loses is less
    # than is masked where it lies, and steep schedules are looked at closely near 0
    root = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t, slope = root**3, 3 * root**2
    mean = (schedule.weight(t) * (1 - schedule.alpha(t)) * slope).mean()
    assert 1 - 2 * T_MIN < mean < 1 + 1e-4


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_a_power_that_is_no_schedule_is_refused(power):
    with pytest.raises(OmniError, match="power is"):
        Polynomial(power)
