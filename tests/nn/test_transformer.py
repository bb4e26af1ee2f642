from collections import Counter

import pytest
import torch
from small_models import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_omni.errors import OmniError
from lightning_omni.nn.rotary import RotaryEmbedding
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer


def tiny(code_spans=()) -> Transformer:
    torch.manual_seed(0)
    return Transformer(50, list(code_spans), **SMALL)


def position_ids(lengths):
    index = torch.cat([torch.arange(n) for n in lengths])
    return torch.stack((index, index // 3, index % 3), dim=1)


def test_packed_segments_get_the_logits_they_get_alone(rng):
    model, lengths = tiny([[40, 8, 3]]), [7, 1, 12]
    model.embedding.spans[0].load(torch.randn(8, 3, generator=rng))
    ids = torch.randint(0, 50, (20,), generator=rng)
    packed = model.logits(
        model(ids, position_ids(lengths), SegmentLayout.from_lengths(lengths, device="cpu"))
    )
    alone = [
        model.logits(
            model(
                part,
                position_ids([len(part)]),
                SegmentLayout.from_lengths([len(part)], device="cpu"),
            )
        )
        for part in ids.split(lengths)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changed", [0, 1, 3])
@torch.no_grad()
def test_a_change_in_one_segment_or_in_the_padding_leaves_all_others_bit_equal(rng, changed, dtype):
    model, lengths = tiny(), [7, 5, 12, 4]  # the last is a row's unused end
    ids = torch.randint(0, 50, (28,), generator=rng)
    segment = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    other = torch.where(segment == changed, (ids + 7) % 50, ids)
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        one, two = (model.logits(model(x, position_ids(lengths), layout)) for x in (ids, other))
    assert torch.equal(one[segment != changed], two[segment != changed])
    assert not torch.equal(one[segment == changed], two[segment == changed])


def test_every_position_sees_every_other_of_its_segment_in_both_directions(rng):
    model = tiny()
    vectors = model.embedding.embed(torch.randint(0, 50, (6,), generator=rng)).detach()
    vectors.requires_grad_()
    model.embedding.embed = lambda ids: vectors
    hidden = model(
        torch.zeros(6).long(), position_ids([6]), SegmentLayout.from_lengths([6], device="cpu")
    )
    for position in (0, 5):
        (grad,) = torch.autograd.grad(hidden[position].sum(), vectors, retain_graph=True)
        assert (grad.abs().sum(1) > 0).all()


def test_logits_of_a_subset_are_columns_of_all_logits(rng):
    model = tiny([[40, 8, 3]])
    model.embedding.spans[0].load(torch.randn(8, 3, generator=rng))
    hidden = torch.randn(5, 32, generator=rng)
    ids = torch.tensor([3, 39, 41, 47, 48])
    torch.testing.assert_close(model.logits(hidden, ids), model.logits(hidden)[:, ids])


def test_codes_without_features_behave_like_a_plain_embedding():
    embedding = tiny([[40, 8, 3]]).embedding
    ids = torch.arange(50)
    torch.testing.assert_close(embedding.embed(ids), embedding.tokens(ids))


def test_grid_places_change_what_a_token_attends_to(rng):
    model = tiny()
    ids = torch.randint(0, 50, (9,), generator=rng)
    layout = SegmentLayout.from_lengths([9], device="cpu")
    flat = position_ids([9]).clone()
    flat[:, 1:] = 0
    assert (model(ids, position_ids([9]), layout) - model(ids, flat, layout)).abs().max() > 1e-4


def test_rope_sections_must_sum_to_half_the_head():
    with pytest.raises(OmniError, match="sum to half the head size, 8"):
        RotaryEmbedding(16, theta=1e4, sections=[4, 4, 4])


def test_a_saved_backbone_comes_back_equal(tmp_path):
    model = tiny([[40, 8, 3]])
    model.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def gradients(model, ids, layout, *, dtype):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = model.logits(model(ids, position_ids(list(layout.lengths)), layout)).square().mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


class Count(TorchDispatchMode):
    """How often each operation is computed."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_selective_recomputation_repeats_all_but_products_and_attention(rng, recomputation):
    model, plain = tiny(), tiny()
    model.recompute_activations(recomputation)
    ids = torch.randint(0, 50, (12,), generator=rng)
    layout = SegmentLayout.from_lengths([7, 5], device="cpu")
    _, wanted = gradients(plain, ids, layout, dtype=torch.float32)
    with Count() as all_of_it:
        _, found = gradients(model, ids, layout, dtype=torch.float32)
    torch.testing.assert_close(found, wanted)
    with Count() as one_pass, torch.no_grad():
        model(ids, position_ids([7, 5]), layout)
    layers = len(model.blocks)
    attention = [name for name in one_pass.calls if "scaled_dot_product" in name]
    assert one_pass.calls["silu"] == layers
    assert all_of_it.calls["silu"] == layers * (1 if recomputation == "none" else 2)
    assert attention
    for name in attention:
        again = 2 if recomputation == "full" else 1
        assert all_of_it.calls[name] == again * one_pass.calls[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_give_the_same_gradients_from_less(rng, dtype):
    plain, frugal = tiny(), tiny()
    frugal.recompute_activations()
    ids, layout = (
        torch.randint(0, 50, (12,), generator=rng),
        SegmentLayout.from_lengths([7, 5], device="cpu"),
    )
    kept = {plain: 0, frugal: 0}
    found = {}
    for model in kept:

        def keep(x, model=model):
            kept[model] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            found[model] = gradients(model, ids, layout, dtype=dtype)
    assert torch.equal(found[plain][0], found[frugal][0])
    for one, two in zip(found[plain][1], found[frugal][1], strict=True):
        torch.testing.assert_close(one, two)
    assert kept[frugal] < kept[plain] / 2


# the compiler looks at gradients of what has none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.slow
def test_compiled_parts_compute_the_same(rng):
    plain, compiled = tiny(), tiny()
    compiled.compile_pointwise()
    ids, layout = (
        torch.randint(0, 50, (12,), generator=rng),
        SegmentLayout.from_lengths([7, 5], device="cpu"),
    )
    one = gradients(plain, ids, layout, dtype=torch.float32)
    two = gradients(compiled, ids, layout, dtype=torch.float32)
    torch.testing.assert_close(one, two)


WANTED = [[4, 9, 10, 23], [0, 1, 2, 25], []]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", WANTED, ids=len)
def test_states_at_some_positions_and_their_gradients_are_those_of_a_whole_pass(rng, wanted, dtype):
    model, lengths, wanted_positions = tiny(), [7, 5, 12, 2], torch.tensor(wanted, dtype=torch.long)
    ids = torch.randint(0, 50, (26,), generator=rng)
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    push = torch.randn(len(wanted), 32, generator=rng)
    found = []
    for positions in (wanted_positions, None):
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            states = model(ids, position_ids(lengths), layout, positions=positions)
        states = states if positions is not None else states[wanted_positions]
        (states * push).sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((states, grads))
    (some, grads), (whole, expected) = found
    close = {} if dtype is torch.float32 else {"atol": 2e-2, "rtol": 5e-2}
    torch.testing.assert_close(some, whole, **close)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


def test_the_last_block_computes_only_what_is_wanted(rng):
    model, rows = tiny(), []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    ids, layout = (
        torch.randint(0, 50, (20,), generator=rng),
        SegmentLayout.from_lengths([20], device="cpu"),
    )
    model(ids, position_ids([20]), layout, positions=torch.tensor([3, 19]))
    assert rows == [*[20] * (len(model.blocks) - 1), 2]
