"""A network shared out over processes has the loss and the updates of the whole one."""

from functools import partial

import pytest
import torch
from several_processes import run_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_omni.modules.sharding import gather_weights, is_sharded, reshard, shard_transformer
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.studies.bench.train import our_loss
from lightning_omni.studies.bench.workload import Shape, make_network, make_samples

SHAPE = Shape(dim=64, num_layers=2, vocab_size=200, tokens=120, longest=80, recomputes=True)
SHAPES = [(6, 4), (5, 8), (1, 8), (6, 4)]  # rows that three processes share out unequally


def bf16_step(rank):
    network = make_network(SHAPE, seed=0)
    samples = make_samples(SHAPE, rng=torch.Generator().manual_seed(0))
    before = network.rotary.inv_freq(torch.device("cpu")).clone()
    with torch.no_grad():
        whole = float(our_loss(network, samples, SHAPE))
    shard_transformer(network, init_device_mesh("cpu", (2,)), dtype=torch.bfloat16)
    loss = our_loss(network, samples, SHAPE)
    loss.backward()
    reshard(network)
    frequencies = network.rotary.inv_freq(torch.device("cpu"))
    own = sum(p.to_local().numel() for p in network.parameters())
    return {
        "is_sharded": is_sharded(network),
        "difference": float(loss.detach()) / whole - 1,
        "frequencies": frequencies.dtype is torch.float32 and torch.equal(before, frequencies),
        "share": own / sum(p.numel() for p in network.parameters()),
        "gathered": sorted(gather_weights(network)) if rank == 0 else gather_weights(network),
    }


def test_a_step_in_bfloat16_keeps_the_frequencies_in_float32(tmp_path):
    first, second = run_processes(bf16_step, 2, tmp_path, joins=True)
    assert first["is_sharded"]
    assert abs(first["difference"]) < 2e-2
    assert first["frequencies"]
    assert 0.4 < first["share"] < 0.6
    assert first["gathered"] == sorted(make_network(SHAPE, seed=0).state_dict())
    assert not second["gathered"]


def muon_steps(rank, *, processes=None):
    """Weights after three updates, sharded over the processes or whole."""
    rng = torch.Generator().manual_seed(3)
    mesh = processes and init_device_mesh("cpu", (processes,))

    def placed(value):
        return distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None) if mesh else value

    weights = [placed(torch.randn(shape, generator=rng)).requires_grad_() for shape in SHAPES]
    bias = placed(torch.randn(7, generator=rng)).requires_grad_()
    groups = [
        {"params": weights, "weight_decay": 0.1, "kind": "matrices"},
        {"params": [bias], "weight_decay": 0.0, "kind": "vectors"},
    ]
    optimizer = MuonAdamW(groups, lr=0.1)
    for _ in range(3):
        for p in (*weights, bias):
            p.grad = placed(torch.randn(p.shape, generator=rng))
        optimizer.step()
    return [(p.full_tensor() if mesh else p).detach() for p in (*weights, bias)]


@pytest.mark.parametrize("processes", [2, 3])
def test_a_sharded_update_of_muon_is_the_whole_one(tmp_path, processes):
    found = run_processes(partial(muon_steps, processes=processes), processes, tmp_path, joins=True)
    for sharded, whole in zip(found[0], muon_steps(0), strict=True):
        torch.testing.assert_close(sharded, whole, rtol=1e-6, atol=1e-7)
