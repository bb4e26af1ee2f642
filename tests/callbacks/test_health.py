"""Each rule of the health monitor speaks when it should, and only then."""

from random import Random

import pytest

from lightning_omni.callbacks.health import HealthMonitor


def alerts(monitor, values):
    return dict(monitor.find_problems(values))


def test_a_healthy_run_is_silent():
    monitor = HealthMonitor()
    for i in range(300):
        values = {
            "train/loss": 5 - 0.01 * i,
            "train_loss_t_image/bin0": 5 - 0.01 * i,
            "optim/grad_norm": 1 + 0.3 * (i % 3),
            "perf/data_wait_s": 0.01,
            "perf/compute_s": 0.2,
        }
        assert alerts(monitor, values) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named(value):
    assert "finite train/loss" in alerts(HealthMonitor(), {"train/loss": value})


@pytest.mark.parametrize("norm", [50.0, float("nan"), float("inf")])
def test_a_gradient_far_above_its_median_is_told(norm):
    monitor = HealthMonitor()
    for _ in range(20):
        assert alerts(monitor, {"optim/grad_norm": 1.0}) == {}
    assert "gradient" in alerts(monitor, {"optim/grad_norm": norm})
    assert alerts(monitor, {"optim/grad_norm": 1.0}) == {}


def test_waiting_for_data_is_told():
    slow = {"perf/data_wait_s": 0.5, "perf/compute_s": 0.5}
    assert "50% of the time" in alerts(HealthMonitor(), slow)["wait"]


def test_a_bin_that_rises_while_the_total_falls_is_named():
    monitor = HealthMonitor()
    found = {}
    for i in range(200):
        values = {"train/loss": 5 - 0.01 * i, "train_loss_t_text/bin4": 1 + 0.02 * i}
        found |= alerts(monitor, values)
    assert list(found) == ["rise train_loss_t_text/bin4"]


def test_a_codebook_hardly_used_is_named():
    used = {"tokenizer/image/usage": 0.05, "tokenizer/speech/usage_q0": 0.9}
    assert list(dict(HealthMonitor().find_low_codebook_usage(used))) == ["tokenizer/image/usage"]


def test_a_bin_with_few_masks_may_be_noisy():
    rng, monitor = Random(0), HealthMonitor()
    for i in range(3000):
        noisy = rng.lognormvariate(0, 1.0)
        values = {"train/loss": 5 - 0.001 * i, "train_loss_t_text/bin0": noisy}
        assert alerts(monitor, values) == {}
