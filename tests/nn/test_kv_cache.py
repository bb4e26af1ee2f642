"""A pass over the live tokens is the full pass where the others do not depend on them."""

import torch

from lightning_omni.nn.kv_cache import Memory
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer

LENGTHS = [7, 4, 9]
LIVE = torch.tensor([4, 5, 6, 9, 10, 11, 12, 18])  # of the three segments 3, 2 and 3


def network(num_layers, *, isolate_prompt=False):
    torch.manual_seed(0)
    return Transformer(
        50,
        [],
        dim=32,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        ffn_dim=48,
        rope_theta=1e4,
        rope_sections=None,
        qkv_bias=True,
        qk_norm=True,
        tie_embeddings=False,
        isolate_prompt=isolate_prompt,
    ).eval()


def run(rng):
    index = torch.cat([torch.arange(n) for n in LENGTHS])
    places = torch.stack((index, index * 0, index * 0), dim=1)
    ids = torch.randint(0, 50, (sum(LENGTHS),), generator=rng)
    changed = ids.clone()
    changed[LIVE] = torch.randint(0, 50, (len(LIVE),), generator=rng)
    return ids, changed, places, SegmentLayout.of(LENGTHS, device="cpu")


def isolated(model):
    is_open = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    is_open[LIVE] = True
    return model.layout(LENGTHS, is_open)


def live_pass(model, memory, ids, places):
    return model(ids[memory.live], places[memory.live], memory.live_layout, memory)


@torch.no_grad()
def test_live_tokens_are_counted_by_segment():
    memory = Memory(LIVE, SegmentLayout.of(LENGTHS, device="cpu"), num_layers=1)
    assert memory.live_layout.lengths == (3, 2, 3)


@torch.no_grad()
def test_a_full_pass_is_the_same_with_and_without_a_memory(rng):
    model, (ids, _, places, layout) = network(3), run(rng)
    memory = Memory(LIVE, layout, num_layers=3)
    assert not memory.is_filled
    assert torch.equal(model(ids, places, layout, memory), model(ids, places, layout))
    assert memory.is_filled


@torch.no_grad()
def test_one_layer_is_exact_as_its_keys_depend_on_their_own_token_only(rng):
    model, (ids, changed, places, layout) = network(1), run(rng)
    memory = Memory(LIVE, layout, num_layers=1)
    model(ids, places, layout, memory)
    expected = model(changed, places, layout)[LIVE]
    torch.testing.assert_close(live_pass(model, memory, changed, places), expected)


@torch.no_grad()
def test_deep_networks_are_exact_when_nothing_changed_or_everything_is_live(rng):
    model, (ids, changed, places, layout) = network(3), run(rng)
    memory = Memory(LIVE, layout, num_layers=3)
    expected = model(ids, places, layout, memory)[LIVE]
    torch.testing.assert_close(live_pass(model, memory, ids, places), expected)
    every = Memory(torch.arange(len(ids)), layout, num_layers=3)
    model(ids, places, layout, every)
    torch.testing.assert_close(
        live_pass(model, every, changed, places), model(changed, places, layout)
    )


@torch.no_grad()
def test_a_segment_without_live_tokens_is_left_out(rng):
    model, (ids, _, places, layout) = network(2), run(rng)
    live = LIVE[LIVE >= 7]
    memory = Memory(live, layout, num_layers=2)
    expected = model(ids, places, layout, memory)[live]
    torch.testing.assert_close(live_pass(model, memory, ids, places), expected)


@torch.no_grad()
def test_forgetting_makes_the_next_pass_exact(rng):
    model, (ids, changed, places, layout) = network(3), run(rng)
    memory = Memory(LIVE, layout, num_layers=3)
    model(ids, places, layout, memory)
    stale = live_pass(model, memory, changed, places)
    exact = model(changed, places, layout)[LIVE]
    assert not torch.allclose(stale, exact)
    memory.forget()
    model(changed, places, layout, memory)
    torch.testing.assert_close(live_pass(model, memory, changed, places), exact)


@torch.no_grad()
def test_an_isolated_prompt_is_exact_in_deep_networks(rng):
    model, (ids, changed, places, plain) = network(3, isolate_prompt=True), run(rng)
    layout = isolated(model)
    memory = Memory(LIVE, layout, num_layers=3)
    model(ids, places, layout, memory)
    expected = model(changed, places, layout)
    torch.testing.assert_close(live_pass(model, memory, changed, places), expected[LIVE])
    assert not torch.allclose(expected, model(changed, places, plain))


@torch.no_grad()
def test_given_tokens_of_an_isolated_prompt_do_not_know_what_is_filled_in(rng):
    model, (ids, changed, places, _) = network(3, isolate_prompt=True), run(rng)
    before, after = (model(x, places, isolated(model)) for x in (ids, changed))
    is_given = torch.ones(len(ids), dtype=torch.bool)
    is_given[LIVE] = False
    assert torch.equal(before[is_given], after[is_given])
    assert not torch.allclose(before[LIVE], after[LIVE])


def test_a_network_that_is_not_isolated_gets_a_plain_layout():
    assert isolated(network(1)).isolation is None
