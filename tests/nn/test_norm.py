"""RMSNorm rounds once in half precision, keeps float32, and is the same under autocast."""

import pytest
import torch

from lightning_omni.nn.norm import RMSNorm


def exact(x, weight):
    wide, scale = x.double(), weight.double()
    return wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * scale


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "limit"),
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.bfloat16, 2**-8),
        (torch.bfloat16, torch.float32, 1e-6),  # the weight is not rounded
        (torch.float32, torch.bfloat16, 1e-6),  # nor is the residual stream
    ],
)
def test_a_norm_is_computed_in_the_wider_format(rng, dtype, weight_dtype, limit, is_autocast):
    norm = RMSNorm(4096, eps=1e-6).to(weight_dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(4096, generator=rng) + 0.5)
    x = (30 * torch.randn(5, 4096, generator=rng)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        out = norm(x)
    assert out.dtype is torch.promote_types(dtype, weight_dtype)
    wide = [v.detach().double().requires_grad_() for v in (x, norm.weight)]
    wanted = exact(*wide)
    torch.testing.assert_close(out.double(), wanted, rtol=limit, atol=0)
    push = torch.randn(out.shape, generator=rng).to(out.dtype)
    found = torch.autograd.grad(out, (x, norm.weight), push)
    for one, two in zip(found, torch.autograd.grad(wanted, wide, push.double()), strict=True):
        apart = (one.double() - two).norm() / two.norm()
        assert apart < (1e-6 if one.dtype is torch.float32 and limit < 1e-3 else 2**-8)
