import math

import pytest
import torch
import torch.nn.functional as F

from lightning_omni.diffusion.objective import per_answer_token, weighted_nll


def case(rng, *, masks=8, vocab=10, dim=5, dtype=torch.float32):
    hidden = torch.randn(masks, dim, generator=rng, dtype=dtype).requires_grad_()
    table = torch.randn(vocab, dim, generator=rng, dtype=dtype).requires_grad_()
    x0 = torch.randint(0, vocab - 1, (masks,), generator=rng)
    return hidden, table, x0, torch.rand(masks, generator=rng, dtype=dtype)


def test_a_uniform_model_costs_log_of_the_vocabulary_without_the_mask(rng):
    hidden, _, x0, weight = case(rng)
    _, nats = weighted_nll(hidden, torch.zeros(10, 5), x0, weight, mask_token_id=9)
    torch.testing.assert_close(nats, torch.full((8,), math.log(9)))


def test_the_mask_is_never_a_prediction(rng):
    hidden, table, x0, weight = case(rng)
    loud = table.detach().clone()
    loud[9] *= 1e4
    one, other = (weighted_nll(hidden, t, x0, weight, mask_token_id=9)[1] for t in (table, loud))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_loss_and_gradients_are_those_of_the_library_s_cross_entropy(rng, chunk):
    hidden, table, x0, weight = case(rng)
    loss, nats = weighted_nll(hidden, table, x0, weight, mask_token_id=9, chunk=chunk)
    (3 * loss).backward()
    got = hidden.grad, table.grad
    hidden.grad = table.grad = None
    scores = F.linear(hidden, table[:9])
    expected = F.cross_entropy(scores, x0, reduction="none")
    (3 * (expected * weight).sum()).backward()
    torch.testing.assert_close(nats, expected.detach())
    torch.testing.assert_close(got, (hidden.grad, table.grad))


def test_gradients_are_those_of_finite_differences(rng):
    hidden, table, x0, weight = case(rng, masks=4, vocab=6, dim=3, dtype=torch.float64)

    def loss(h, t):
        return weighted_nll(h, t, x0, weight, mask_token_id=5, chunk=3)[0]

    assert torch.autograd.gradcheck(loss, (hidden, table))


@pytest.mark.parametrize("gap", [10.0, 80.0, 100.0, 1000.0])
def test_an_improbable_truth_costs_its_nats_and_not_infinity(gap):
    table = torch.eye(4)
    hidden = torch.tensor([[0.0, gap, 0.0, 0.0]])
    weight, x0 = torch.ones(1), torch.tensor([0])
    loss, nats = weighted_nll(hidden, table, x0, weight, mask_token_id=3)
    expected = math.log(math.exp(gap) + 2) if gap < 700 else gap
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert nats.item() == pytest.approx(expected, rel=1e-6)


def test_without_masks_the_loss_is_zero(rng):
    hidden, table, x0, weight = case(rng, masks=0)
    loss, nats = weighted_nll(hidden, table, x0, weight, mask_token_id=9)
    loss.backward()
    assert loss.item() == 0
    assert len(nats) == 0
    assert not table.grad.any()


def test_products_follow_autocast_and_sums_do_not(rng):
    hidden, table, x0, weight = case(rng, masks=64, vocab=300, dim=32)
    exact, _ = weighted_nll(hidden, table, x0, weight, mask_token_id=299)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nats = weighted_nll(hidden, table, x0, weight, mask_token_id=299)
    assert loss.dtype == nats.dtype == torch.float32
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)


def test_the_loss_is_normalised_by_what_could_be_masked_not_by_what_was():
    torch.testing.assert_close(
        per_answer_token(torch.tensor(5.0), torch.tensor(10.0)), torch.tensor(0.5)
    )
