"""A partial pass equals a full one where cached states do not depend on recomputed tokens."""

import torch

from lightning_omni.nn.kv_cache import KVCache
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer

LENGTHS = [7, 4, 9]
RECOMPUTED = torch.tensor([4, 5, 6, 9, 10, 11, 12, 18])  # of the three segments 3, 2 and 3


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
    position_ids = torch.stack((index, index * 0, index * 0), dim=1)
    ids = torch.randint(0, 50, (sum(LENGTHS),), generator=rng)
    changed = ids.clone()
    changed[RECOMPUTED] = torch.randint(0, 50, (len(RECOMPUTED),), generator=rng)
    return ids, changed, position_ids, SegmentLayout.from_lengths(LENGTHS, device="cpu")


def isolated(model):
    is_maskable = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    is_maskable[RECOMPUTED] = True
    return model.segment_layout(LENGTHS, is_maskable)


def partial_pass(model, cache, ids, position_ids):
    return model(
        ids[cache.recomputed], position_ids[cache.recomputed], cache.recomputed_layout, cache
    )


@torch.no_grad()
def test_recomputed_tokens_are_counted_by_segment():
    cache = KVCache(RECOMPUTED, SegmentLayout.from_lengths(LENGTHS, device="cpu"), num_layers=1)
    assert cache.recomputed_layout.lengths == (3, 2, 3)


@torch.no_grad()
def test_a_full_pass_is_the_same_with_and_without_a_cache(rng):
    model, (ids, _, position_ids, layout) = network(3), run(rng)
    cache = KVCache(RECOMPUTED, layout, num_layers=3)
    assert not cache.is_initialized
    assert torch.equal(model(ids, position_ids, layout, cache), model(ids, position_ids, layout))
    assert cache.is_initialized


@torch.no_grad()
def test_one_layer_is_exact_as_its_keys_depend_on_their_own_token_only(rng):
    model, (ids, changed, position_ids, layout) = network(1), run(rng)
    cache = KVCache(RECOMPUTED, layout, num_layers=1)
    model(ids, position_ids, layout, cache)
    expected = model(changed, position_ids, layout)[RECOMPUTED]
    torch.testing.assert_close(partial_pass(model, cache, changed, position_ids), expected)


@torch.no_grad()
def test_deep_networks_are_exact_when_nothing_changed_or_everything_is_recomputed(rng):
    model, (ids, changed, position_ids, layout) = network(3), run(rng)
    cache = KVCache(RECOMPUTED, layout, num_layers=3)
    expected = model(ids, position_ids, layout, cache)[RECOMPUTED]
    torch.testing.assert_close(partial_pass(model, cache, ids, position_ids), expected)
    every = KVCache(torch.arange(len(ids)), layout, num_layers=3)
    model(ids, position_ids, layout, every)
    torch.testing.assert_close(
        partial_pass(model, every, changed, position_ids), model(changed, position_ids, layout)
    )


@torch.no_grad()
def test_a_segment_without_recomputed_tokens_is_left_out(rng):
    model, (ids, _, position_ids, layout) = network(2), run(rng)
    recomputed = RECOMPUTED[RECOMPUTED >= 7]
    cache = KVCache(recomputed, layout, num_layers=2)
    expected = model(ids, position_ids, layout, cache)[recomputed]
    torch.testing.assert_close(partial_pass(model, cache, ids, position_ids), expected)


@torch.no_grad()
def test_resetting_makes_the_next_pass_exact(rng):
    model, (ids, changed, position_ids, layout) = network(3), run(rng)
    cache = KVCache(RECOMPUTED, layout, num_layers=3)
    model(ids, position_ids, layout, cache)
    stale = partial_pass(model, cache, changed, position_ids)
    exact = model(changed, position_ids, layout)[RECOMPUTED]
    assert not torch.allclose(stale, exact)
    cache.reset()
    model(changed, position_ids, layout, cache)
    torch.testing.assert_close(partial_pass(model, cache, changed, position_ids), exact)


@torch.no_grad()
def test_an_isolated_prompt_is_exact_in_deep_networks(rng):
    model, (ids, changed, position_ids, plain) = network(3, isolate_prompt=True), run(rng)
    layout = isolated(model)
    cache = KVCache(RECOMPUTED, layout, num_layers=3)
    model(ids, position_ids, layout, cache)
    expected = model(changed, position_ids, layout)
    torch.testing.assert_close(
        partial_pass(model, cache, changed, position_ids), expected[RECOMPUTED]
    )
    assert not torch.allclose(expected, model(changed, position_ids, plain))


@torch.no_grad()
def test_states_of_an_isolated_prompt_do_not_depend_on_the_response(rng):
    model, (ids, changed, position_ids, _) = network(3, isolate_prompt=True), run(rng)
    before, after = (model(x, position_ids, isolated(model)) for x in (ids, changed))
    is_fixed = torch.ones(len(ids), dtype=torch.bool)
    is_fixed[RECOMPUTED] = False
    assert torch.equal(before[is_fixed], after[is_fixed])
    assert not torch.allclose(before[RECOMPUTED], after[RECOMPUTED])


def test_a_network_that_is_not_isolated_gets_a_plain_layout():
    assert isolated(network(1)).isolation is None
