import torch

from lightning_omni.nn.codec.residual_vq import ResidualQuantizer


def fitted(rng, levels=2, size=32):
    quantizer = ResidualQuantizer(4, levels, size)
    z = torch.randn(2000, 4, generator=rng)
    quantizer.initialise_codebooks(z, iterations=5, rng=rng)
    return quantizer, z


def test_each_level_lowers_the_error(rng):
    quantizer, z = fitted(rng, levels=3)
    quantizer.eval()
    errors = []
    for levels in (1, 2, 3):
        codes = quantizer.encode(z[None], num_codebooks=levels)
        errors.append((quantizer.decode(codes)[0] - z).pow(2).mean())
    assert errors[0] > errors[1] > errors[2]


def test_k_means_uses_every_code(rng):
    quantizer, z = fitted(rng)
    codes = quantizer.eval().encode(z[None], num_codebooks=2)
    assert all(len(codes[..., level].unique()) == 32 for level in range(2))


def test_a_dead_code_is_restarted_and_stays_alive_through_the_next_update(rng):
    quantizer, z = fitted(rng, levels=1)
    book = quantizer.layers.layers[0]._codebook
    book.embed[5], book.embed_avg[5], book.cluster_size[5] = 100.0, 0.0, 0.0
    assert quantizer.restart_dead_codes(z, rng=rng) == 1
    quantizer.train()(z[None], num_codebooks=1)
    assert book.embed[5].norm() < 10
    assert (quantizer.eval().encode(z[None], num_codebooks=1) == 5).any()


def test_the_gradient_passes_straight_through(rng):
    quantizer, z = fitted(rng)
    z = z[None, :50].clone().requires_grad_()
    quantizer.train()(z, num_codebooks=2).latents.sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z))
