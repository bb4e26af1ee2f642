import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.nn.codec.lookup_free import LookupFreeQuantizer


@given(st.integers(1, 13), st.integers(0, 2**13 - 1))
def test_vectors_and_codes_are_inverse_and_channel_zero_is_the_highest_bit(bits, code):
    code %= 2**bits
    quantizer = LookupFreeQuantizer(bits)
    vector = quantizer.vectors(torch.tensor([[code]])).permute(0, 2, 1)[..., None]
    assert quantizer.codes(vector).item() == code
    assert (vector[0, 0, 0, 0] > 0) == (code >= 2 ** (bits - 1))


def test_zero_counts_as_negative():
    assert LookupFreeQuantizer(4).codes(torch.zeros(1, 4, 1, 1)).item() == 0


def test_the_gradient_passes_straight_through(rng):
    z = torch.randn(2, 5, 3, 3, generator=rng, requires_grad=True)
    quantized = LookupFreeQuantizer(5)(z)
    assert set(quantized.latents.detach().unique().tolist()) == {-1.0, 1.0}
    quantized.latents.sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))


def test_entropies_are_zero_when_decided_and_log_two_when_undecided_or_balanced():
    quantizer = LookupFreeQuantizer(3)
    undecided = quantizer(torch.zeros(1, 3, 2, 2))
    assert abs(undecided.sample_entropy - math.log(2)) < 1e-4
    balanced = torch.full((1, 3, 2, 2), 9.0)
    balanced[..., 0] = -9.0
    decided = quantizer(balanced)
    assert decided.sample_entropy < 1e-4
    assert abs(decided.batch_entropy - math.log(2)) < 1e-4
