import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.losses.adversarial import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from lightning_omni.losses.balancer import GradientBalancer
from lightning_omni.losses.perceptual import TimmPerceptual
from lightning_omni.losses.spectral import MultiResolutionSpectralLoss


def test_a_critic_that_separates_by_the_margin_pays_nothing():
    assert hinge_discriminator(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -3.0])) == 0
    assert hinge_discriminator(torch.zeros(2), torch.zeros(2)) == 1
    assert hinge_generator(torch.tensor([2.0])) == -2


def test_equal_features_match_and_the_real_ones_get_no_gradient(rng):
    real = torch.randn(2, 3, generator=rng, requires_grad=True)
    fake = (real.detach() + 1).requires_grad_()
    assert feature_matching([[real]], [[real]]) == 0
    feature_matching([[real]], [[fake]]).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def test_shares_hold_whatever_the_scales_of_the_losses(rng):
    output = torch.randn(3, 8, generator=rng, requires_grad=True)
    left, right = torch.zeros(8), torch.zeros(8)
    left[:4], right[4:] = 1, 1
    losses = {"big": 1e4 * (output * left).sum(), "small": 1e-4 * (output * right).sum()}
    grad = GradientBalancer({"big": 1.0, "small": 3.0}).gradient(losses, output)
    ratio = grad[:, 4:].norm(dim=-1) / grad[:, :4].norm(dim=-1)
    torch.testing.assert_close(ratio, torch.full((3,), 3.0))


def test_the_spectral_distance_is_zero_for_equal_and_grows_with_noise(rng):
    loss = MultiResolutionSpectralLoss(16000, drawn=4)
    wave = torch.sin(torch.arange(8192) * 0.1)[None] * 0.3
    noise = torch.randn(1, 8192, generator=rng)
    distances = [loss(wave + s * noise, wave, rng=rng).item() for s in (0, 0.01, 0.1)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


def test_the_feature_distance_is_deterministic_zero_for_equal_and_differentiable(rng):
    first, second = (TimmPerceptual("resnet10t", None) for _ in range(2))
    a = torch.rand(1, 3, 64, 64, generator=rng, requires_grad=True)
    b = torch.rand(1, 3, 64, 64, generator=rng)
    torch.testing.assert_close(first(a, b), second(a, b))
    assert first(b, b) == 0
    first(a, b).backward()
    assert a.grad.abs().sum() > 0


def test_a_missing_checkpoint_is_named():
    with pytest.raises(OmniError, match=r"no perceptual checkpoint at 'gone\.pt'"):
        TimmPerceptual("resnet10t", "gone.pt")
