import math

import pytest
import torch

from lightning_omni.metrics.nelbo import NelboPerToken


def test_a_ratio_of_sums_with_the_error_that_repetition_shows(rng):
    def draw():
        tokens = torch.randint(1, 20, (200,), generator=rng)
        nats = tokens * 1.5 + torch.randn(200, generator=rng) * tokens.sqrt()
        metric = NelboPerToken(2)
        for part in range(0, 200, 50):
            some = slice(part, part + 50)
            metric.update(nats[some], tokens[some], torch.zeros(50, dtype=torch.long))
        ratio, error = metric.compute()
        assert math.isnan(ratio[1])
        assert ratio[0].item() == pytest.approx(float(nats.sum() / tokens.sum()), rel=1e-6)
        return ratio[0].item(), error[0].item()

    found = torch.tensor([draw() for _ in range(200)], dtype=torch.float64)
    assert found[:, 0].mean().item() == pytest.approx(1.5, abs=0.01)
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.2)


def test_a_single_sample_has_no_error():
    metric = NelboPerToken(1)
    metric.update(torch.tensor([0.7]), torch.tensor([31]), torch.tensor([0]))
    ratio, error = metric.compute()
    assert ratio.item() == pytest.approx(0.7 / 31)
    assert error.isnan()
