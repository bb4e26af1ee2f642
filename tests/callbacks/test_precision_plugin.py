"""Mixed precision by machine: what autocasts, what is clipped."""

import pytest
import torch

from lightning_omni.callbacks import precision_plugin as precision
from lightning_omni.callbacks.precision_plugin import BFloat16WhereFaster


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_run_in_the_format_of_the_machine(monkeypatch, rng, dtype):
    monkeypatch.setattr(precision, "matmul_dtype", lambda _: dtype)
    a = torch.randn(4, 4, generator=rng)
    with BFloat16WhereFaster().forward_context():
        assert (a @ a).dtype is dtype


def test_gradients_are_clipped_under_a_fused_optimizer():
    weight = torch.nn.Parameter(torch.ones(4))
    weight.grad = torch.full((4,), 100.0)
    optimizer = torch.optim.AdamW([weight], fused=True)
    BFloat16WhereFaster().clip_gradients(optimizer, clip_val=1.0)
    torch.testing.assert_close(weight.grad.norm(), torch.tensor(1.0), rtol=1e-4, atol=1e-4)
