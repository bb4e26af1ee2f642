"""Muon: orthogonal updates for matrices, AdamW for the rest."""

import pytest
import torch
from several_processes import run_processes

from lightning_omni.errors import OmniError
from lightning_omni.optim import muon
from lightning_omni.optim.muon import MuonAdamW, orthogonalise
from lightning_omni.optim.optimizer import decay_groups


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_singular_values_come_near_one_and_directions_stay(rng, shape):
    x = torch.randn(shape, generator=rng)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    made = orthogonalise(x, steps=5)
    values = torch.linalg.svdvals(made)
    assert values.max() < 1.3
    assert values.median() > 0.6
    aligned = torch.diagonal(u.mT @ made @ vh.mT, dim1=1, dim2=2)
    assert aligned.min() > 0
    off = u.mT @ made @ vh.mT - torch.diag_embed(aligned)
    assert off.abs().max() < 1e-3


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))


def test_vectors_move_as_with_adamw_and_matrices_do_not():
    first, second = net(), net()
    muon = MuonAdamW(decay_groups(first, 0.1), lr=0.01)
    adamw = torch.optim.AdamW(decay_groups(second, 0.1), lr=0.01, betas=(0.9, 0.95))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    for model, optimizer in ((first, muon), (second, adamw)):
        model(x).square().mean().backward()
        optimizer.step()
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7) == (a.ndim < 2), name


def test_one_kernel_updates_as_several_do_and_continues_their_state(monkeypatch):
    """What GPUs compute by, here on a CPU."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    updated = []
    for kernels in ([False] * 4, [True] * 4, [False, False, True, True]):
        model = net()
        optimizer = MuonAdamW(decay_groups(model, 0.1), lr=0.01)
        for is_one in kernels:
            monkeypatch.setattr(muon, "is_updated_by_one_kernel", lambda p, is_one=is_one: is_one)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        updated.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(updated[1], updated[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(updated[2], updated[0], rtol=1e-5, atol=1e-7)


def test_a_convolution_is_one_matrix():
    conv = torch.nn.Conv2d(3, 4, 3, bias=False)
    before = conv.weight.detach().clone()
    conv(torch.ones(1, 3, 5, 5)).sum().backward()
    conv.weight.grad = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    MuonAdamW(decay_groups(conv, 0.0), lr=0.01).step()
    step = (before - conv.weight.detach()).flatten(1)
    assert torch.linalg.svdvals(step / (0.01 * 0.2 * 27**0.5)).max() < 1.3


def test_it_resumes_from_its_state(tmp_path):
    def train(model, optimizer, steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    whole = net()
    train(whole, MuonAdamW(decay_groups(whole, 0.0), lr=0.01), 4)
    half = net()
    first = MuonAdamW(decay_groups(half, 0.0), lr=0.01)
    train(half, first, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = MuonAdamW(decay_groups(half, 0.0), lr=0.01)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    train(half, second, 2)
    for a, b in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_without_a_kind_are_refused():
    with pytest.raises(OmniError, match="decay_groups"):
        MuonAdamW([{"params": list(net().parameters())}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "ranks"), [(1, 2), (3, 2), (2, 3)])
def test_processes_share_the_matrices_and_all_get_all(tmp_path, rng, count, ranks, dtype):
    updates = torch.randn(count, 6, 9, generator=rng).to(dtype)
    computed = []

    def work(rank):
        whole = muon.orthogonalise
        muon.orthogonalise = lambda x, *, steps: (computed.append(len(x)), whole(x, steps=steps))[1]
        return muon._orthogonalise_by_shares(updates, steps=5), sum(computed)

    found = run_processes(work, ranks, tmp_path, joins=True)
    alone = orthogonalise(updates, steps=5)
    for made, _ in found:
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(made, alone, rtol=tolerance, atol=tolerance)
        assert torch.equal(made, found[0][0])
    shares = [1] * ranks if count == 1 else [len(range(r, count, ranks)) for r in range(ranks)]
    assert [number for _, number in found] == shares
