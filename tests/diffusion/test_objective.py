import math

import torch

from lightning_omni.diffusion.objective import masked_nll, weighted_mean


def test_a_uniform_model_costs_log_of_the_vocabulary_without_the_mask(rng):
    x0 = torch.randint(0, 9, (50,), generator=rng)
    nats = masked_nll(torch.zeros(50, 10), x0, mask_token_id=9)
    torch.testing.assert_close(nats, torch.full((50,), math.log(9)))


def test_the_mask_is_never_a_prediction(rng):
    logits = torch.randn(8, 10, generator=rng)
    certain = logits.clone()
    certain[:, 4] = 1e4
    x0 = torch.zeros(8, dtype=torch.long)
    torch.testing.assert_close(
        masked_nll(logits, x0, mask_token_id=4), masked_nll(certain, x0, mask_token_id=4)
    )


def test_the_loss_is_normalised_by_what_could_be_masked_not_by_what_was():
    nats, weight = torch.tensor([2.0, 4.0]), torch.tensor([0.5, 1.0])
    torch.testing.assert_close(weighted_mean(nats, weight, 10.0), torch.tensor(0.5))
