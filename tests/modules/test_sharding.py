"""A model that processes share has the loss, and the clipped gradient, of the whole one."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.transformer import Block
from lightning_omni.optim.schedule import decay_groups
from lightning_omni.studies.bench.train import our_loss
from lightning_omni.studies.bench.workload import Shape, make_network, make_samples

SHAPE = Shape(dim=64, num_layers=2, vocab_size=200, tokens=120, longest=80, recomputes=True)
CLIP = 0.1


class Loss(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.backbone = network

    def forward(self, samples):
        return our_loss(self.backbone, samples, SHAPE)


def share(rank, folder):
    """What each of two processes does."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    network = make_network(SHAPE, seed=0)
    samples = make_samples(SHAPE, rng=torch.Generator().manual_seed(0))
    whole = our_loss(network, samples, SHAPE)
    whole.backward()
    before = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
    network.zero_grad()
    policy = ModuleWrapPolicy({Block})
    shared = FullyShardedDataParallel(
        Loss(network), auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )
    optimizer = torch.optim.SGD(network.parameters())
    loss = shared(samples)
    loss.backward()
    torch.testing.assert_close(loss, whole)
    trained = SimpleNamespace(trainer=SimpleNamespace(strategy=SimpleNamespace(model=shared)))
    MaskedDiffusionModule.configure_gradient_clipping(trained, optimizer, CLIP)
    own = [p.grad for p in network.parameters() if p.grad is not None and p.grad.numel()]
    squares = torch.stack([g.pow(2).sum() for g in own]).sum()
    dist.all_reduce(squares)
    assert before > CLIP
    torch.testing.assert_close(squares.sqrt(), torch.tensor(CLIP), rtol=1e-3, atol=0)
    with pytest.raises(OmniError, match="all weights are flat"):
        decay_groups(network, 0.1)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_a_model(tmp_path):
    torch.multiprocessing.spawn(share, args=(str(tmp_path),), nprocs=2)


def test_without_sharing_lightning_clips():
    called = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    trained = SimpleNamespace(
        trainer=SimpleNamespace(strategy=SimpleNamespace(model=nn.Linear(1, 1))),
        clip_gradients=lambda *given: called.append(given),
    )
    MaskedDiffusionModule.configure_gradient_clipping(trained, optimizer, 0.5, "norm")
    assert called == [(optimizer, 0.5, "norm")]


def test_weights_that_are_flat_cannot_be_decayed():
    flat = nn.Module()
    flat.weight = nn.Parameter(torch.zeros(6))
    with pytest.raises(OmniError, match=r"weight_decay is 0\.1 but all weights are flat"):
        decay_groups(flat, 0.1)
    assert [group["kind"] for group in decay_groups(flat, 0.0)] == ["vectors"]
