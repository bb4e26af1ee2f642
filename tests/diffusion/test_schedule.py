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

SCHEDULES = [Linear(), Cosine(), Polynomial(2.0), Polynomial(0.5), Shifted(Cosine(), 3.0)]


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
    # E over t of weight(t) * P(masked at t) = integral of -alpha' = 1; below T_MIN some is lost
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    mean = (schedule.weight(t) * (1 - schedule.alpha(t))).mean()
    lost = 1 - schedule.alpha(torch.tensor(T_MIN)).item()
    assert 1 - lost - 1e-3 < mean < 1 + 1e-3
