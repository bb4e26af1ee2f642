"""A world of sequences that can be enumerated, with its exact posterior as the denoiser."""

import itertools

import torch

from lightning_omni.samplers.canvas import Canvas

VOCAB, LENGTH = 3, 4
MASK = VOCAB
WORLD = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))


def make_joint():
    """A table of probabilities of all sequences, far from independent."""
    rng = torch.Generator().manual_seed(0)
    return torch.rand(len(WORLD), generator=rng, dtype=torch.float64).pow(3).mul(6).softmax(0)


def posterior_denoiser(joint):
    """log p(x_i | visible tokens) of every sample of a canvas, from the table."""
    powers = (VOCAB + 1) ** torch.arange(LENGTH)
    canvases = torch.tensor(list(itertools.product(range(VOCAB + 1), repeat=LENGTH)))
    table = torch.zeros((VOCAB + 1) ** LENGTH, LENGTH, VOCAB)
    one_hot = torch.nn.functional.one_hot(WORLD, VOCAB).double()
    for canvas in canvases:
        fits = ((canvas == WORLD) | (canvas == MASK)).all(1)
        marginal = torch.einsum("w,wlv->lv", joint * fits, one_hot)
        table[(canvas * powers).sum()] = (marginal / marginal.sum(1, keepdim=True)).log().float()

    def denoise(ids, _):
        code = (ids.view(-1, LENGTH) * powers).sum(1)
        logits = table[code].view(-1, VOCAB)
        return lambda where, allowed: logits[where][:, allowed]

    return denoise


def empty_canvas(num_samples, *, steps, length=LENGTH):
    """Samples of masks alone."""
    return Canvas(
        torch.full((num_samples * length,), MASK),
        torch.arange(num_samples).repeat_interleave(length),
        torch.zeros(num_samples * length, dtype=torch.long),
        torch.zeros(num_samples * length, dtype=torch.long),
        (torch.arange(VOCAB),),
        torch.full((num_samples, 1), steps),
        MASK,
    )
