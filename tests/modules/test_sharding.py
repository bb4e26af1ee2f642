"""A network shared out over processes has the loss and the updates of the whole one."""

import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from several_processes import run_processes
from small_models import QWEN_SHAPE, import_small_dream
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.functional import scaled_dot_product_attention

from lightning_omni.callbacks.precision_plugin import BFloat16WhereFaster
from lightning_omni.deferred_init import deferred_weights
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.modules.sharding import (
    gather_weights,
    is_sharded,
    products_dtype,
    reshard,
    shard_parts,
    shard_transformer,
)
from lightning_omni.nn import segments
from lightning_omni.nn.norm import RMSNorm
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim import muon
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.studies.bench.training_steps import our_loss
from lightning_omni.studies.bench.workload import Shape, make_network, make_samples
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.vocab import Vocab

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


def course_of_a_step(rank, *, num_layers):
    """In which order a step in bfloat16 gathers weights and computes blocks, and its loss."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group

    warnings.simplefilter("error")  # no kernel of a norm is told two formats
    network = make_network(replace(SHAPE, num_layers=num_layers, recomputes=False), seed=0)
    for block in network.blocks:
        size = block.attention.head_dim
        block.attention.q_norm, block.attention.k_norm = RMSNorm(size), RMSNorm(size)
    samples = make_samples(SHAPE, rng=torch.Generator().manual_seed(rank))
    whole = our_loss(network, samples, SHAPE)
    course, gather = [], _fsdp_param_group.foreach_all_gather

    def note(parameters, *args, **kwargs):
        name = parameters[0]._param_fqn
        course.append(("gather", int(name.split(".")[1]) if name.startswith("blocks") else -1))
        return gather(parameters, *args, **kwargs)

    _fsdp_param_group.foreach_all_gather = note
    shard_transformer(network, init_device_mesh("cpu", (2,)), dtype=torch.bfloat16)
    for number, block in enumerate(network.blocks):
        block.ffn_norm.register_forward_pre_hook(
            lambda *_, number=number: course.append(("compute", number))
        )
    with torch.autocast("cpu", torch.bfloat16):
        loss = our_loss(network, samples, SHAPE)
    course.append("loss")
    loss.backward()
    return course, float(loss.detach()) / float(whole.detach()) - 1


def test_the_next_block_is_gathered_while_one_computes_and_the_last_one_once(tmp_path):
    work = partial(course_of_a_step, num_layers=4)
    (course, apart), other = run_processes(work, 2, tmp_path, joins=True)
    assert max(abs(apart), abs(other[1])) < 2e-2
    assert course == other[0]
    before = course.index("loss")
    for number in range(3):
        assert course.index(("gather", number + 1)) < course.index(("compute", number))
    assert [n for what, n in course[before + 1 :] if what == "gather"] == [2, 1, 0]
    assert course[:before].count(("gather", 3)) == course.count(("gather", -1)) == 1


@pytest.mark.parametrize(
    ("precision", "plugin", "device", "wanted"),
    [
        ("bf16-mixed", None, "cpu", torch.bfloat16),
        ("32-true", BFloat16WhereFaster(always=True), "cuda", torch.bfloat16),
        ("32-true", BFloat16WhereFaster(always=True), "cpu", None),  # autocast, as on one device
        ("32-true", None, "cuda", None),
    ],
)
def test_weights_are_gathered_in_the_format_of_products(precision, plugin, device, wanted):
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(precision=precision, precision_plugin=plugin, strategy=strategy)
    assert products_dtype(trainer) is wanted


def recomputed_gradients(rank):
    """Whole gradients in bfloat16 by what is recomputed."""
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for recomputation in ("none", "selective", "full"):
        network = make_network(replace(SHAPE, recomputes=False), seed=0)
        network.recompute_activations(recomputation)
        samples = make_samples(SHAPE, rng=torch.Generator().manual_seed(rank))
        shard_transformer(network, mesh, dtype=torch.bfloat16)
        our_loss(network, samples, SHAPE).backward()
        reshard(network)
        found[recomputation] = {
            name: p.grad.full_tensor() for name, p in network.named_parameters()
        }
    return found


def test_recomputed_shares_have_the_gradients_of_kept_ones(tmp_path):
    found, other = run_processes(recomputed_gradients, 2, tmp_path, joins=True)
    assert all(gradient.abs().sum() > 0 for gradient in found["none"].values())
    for recomputation in ("selective", "full"):
        torch.testing.assert_close(found[recomputation], found["none"], rtol=0, atol=0)
    torch.testing.assert_close(found, other, rtol=0, atol=0)


def attend_by_mask(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa=False):
    """What a kernel for packed segments computes, in operations that a compiler can follow."""
    at = (torch.arange(len(query)), cu_seq_q[1:]), (torch.arange(len(key)), cu_seq_k[1:])
    segment, key_segment = (torch.bucketize(n, ends, right=True) for n, ends in at)
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    is_seen = segment[:, None] == key_segment
    out = scaled_dot_product_attention(q, k, v, attn_mask=is_seen, enable_gqa=enable_gqa)
    return out[0].transpose(0, 1)


def compiled_gradients(rank):
    """Whole gradients in bfloat16 of blocks that are not compiled, and of compiled ones."""
    from torch.nn.attention import varlen

    mesh, found = init_device_mesh("cpu", (2,)), {}
    varlen.varlen_attn, segments.attention_backend = attend_by_mask, lambda device: "varlen"
    torch.compile = partial(torch.compile, backend="aot_eager")
    for recomputation in (None, "none", "selective"):
        network = make_network(replace(SHAPE, recomputes=False), seed=0)
        if recomputation is not None:
            network.recompute_activations(recomputation)
            network.compile_blocks()
        samples = make_samples(SHAPE, rng=torch.Generator().manual_seed(rank))
        shard_transformer(network, mesh, dtype=torch.bfloat16)
        for _ in range(2):
            network.zero_grad()
            our_loss(network, samples, SHAPE).backward()
        reshard(network)
        found[recomputation] = {
            name: p.grad.full_tensor() for name, p in network.named_parameters()
        }
    return found


# the compiler looks at gradients of what has none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_shares_have_the_gradients_of_others_whatever_is_recomputed(tmp_path):
    pytest.importorskip("torch.nn.attention.varlen")
    found, _ = run_processes(compiled_gradients, 2, tmp_path, joins=True)
    for name, wanted in found[None].items():
        assert wanted.abs().sum() > 0
        for recomputation in ("none", "selective"):
            apart = (found[recomputation][name] - wanted).norm() / wanted.norm()
            assert apart < 2e-2, (recomputation, name)
        torch.testing.assert_close(
            found["selective"][name], found["none"][name], rtol=1e-3, atol=1e-6
        )


def muon_steps(rank, *, processes=None, is_fused=False):
    """Weights after three updates, sharded over the processes or whole."""
    muon.is_updated_by_one_kernel = lambda p: is_fused
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


@pytest.mark.parametrize(("processes", "is_fused"), [(2, False), (3, False), (2, True)])
def test_a_sharded_update_of_muon_is_the_whole_one(tmp_path, monkeypatch, processes, is_fused):
    monkeypatch.setattr(muon, "is_updated_by_one_kernel", muon.is_updated_by_one_kernel)
    steps = partial(muon_steps, processes=processes, is_fused=is_fused)
    found = run_processes(steps, processes, tmp_path, joins=True)
    for sharded, whole in zip(found[0], muon_steps(0), strict=True):
        torch.testing.assert_close(sharded, whole, rtol=1e-6, atol=1e-7)


def tied(seed, folder):
    torch.manual_seed(seed)
    shape = {**QWEN_SHAPE, "tie_embeddings": True, "right_shift_logits": True}
    network = Transformer(VOCAB.size, [], **shape)
    if folder is not None:
        load_initial_weights(network, folder, VOCAB, seed=3)
    return network


def image_tokenizer(seed):
    torch.manual_seed(seed)
    return ImageTokenizer(16, 4, 6, [1, 2], [1, 1], [1, 2], [1, 1], groups=2)


def deferred_start(rank, *, folder):
    """What a network without memory begins with, of seeds that differ between processes."""
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for source in (None, folder):
        with deferred_weights():
            network = tied(rank, source)
        assert all(p.is_meta for p in network.parameters())
        shard_transformer(network, mesh)
        is_tied = network.embedding.head.weight is network.embedding.tokens.weight
        own = sum(p.to_local().numel() for p in network.parameters())
        share = own / sum(p.numel() for p in network.parameters())
        found[source] = (gather_weights(network), is_tied, share)
    with deferred_weights():
        tokenizer = image_tokenizer(rank)
    shard_parts(tokenizer, mesh)
    assert not any(p.is_meta for p in tokenizer.parameters())
    return found, gather_weights(tokenizer)


VOCAB = Vocab(300, {"speech": 61, "image": 7}, "released")


def test_shares_of_a_network_without_memory_are_those_of_the_first_process_s_whole_one(tmp_path):
    folder = import_small_dream(tmp_path, 340, tie_embeddings=True)
    first, _ = run_processes(partial(deferred_start, folder=folder), 2, tmp_path, joins=True)
    for source, (weights, is_tied, share) in first[0].items():
        torch.testing.assert_close(weights, tied(0, source).state_dict(), rtol=0, atol=0)
        assert is_tied
        assert 0.4 < share < 0.6
    torch.testing.assert_close(first[1], image_tokenizer(0).state_dict(), rtol=0, atol=0)
