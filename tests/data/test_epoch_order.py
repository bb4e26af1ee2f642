"""The order of an epoch: every sample once, shards mixed, lanes apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_omni.data.epoch_order import PIECES_PER_POOL, SAMPLES_PER_POOL, EpochOrder

SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def samples(order, pool):
    found = [(r.shard, i) for r in order.sample_ranges(pool) for i in range(r.start, r.stop)]
    return [found[i] for i in order.permutation(pool, len(found))]


@settings(deadline=None, max_examples=60)
@given(sizes=SHARDS, lanes=st.integers(1, 70), epoch=st.integers(0, 3))
def test_every_epoch_has_every_sample_once(sizes, lanes, epoch):
    order = EpochOrder(sizes, lanes=lanes, seed="1")
    pools = range(epoch * order.pools_per_epoch, (epoch + 1) * order.pools_per_epoch)
    found = [sample for pool in pools for sample in samples(order, pool)]
    assert sorted(found) == [(s, i) for s, size in enumerate(sizes) for i in range(size)]
    assert all(order.pool_size(pool) == len(samples(order, pool)) > 0 for pool in pools)


def test_the_order_is_a_function_of_seed_and_epoch():
    first, again, other = (EpochOrder([50] * 8, lanes=4, seed=s) for s in "112")
    pools = range(first.pools_per_epoch)
    one = [samples(first, p) for p in pools]
    assert one == [samples(again, p) for p in pools]
    assert one != [samples(other, p) for p in pools]
    assert one != [samples(first, p + first.pools_per_epoch) for p in pools]


@pytest.mark.parametrize("lanes", [1, 4, 64])
def test_a_window_of_100_samples_spans_most_of_8_shards(lanes):
    order = EpochOrder([1000] * 8, lanes=lanes, seed="1")
    lane = [s for turn in range(64 // lanes) for s in samples(order, turn * lanes)]
    windows = [{shard for shard, _ in lane[i : i + 100]} for i in range(0, len(lane) - 99, 25)]
    assert windows
    assert min(map(len, windows)) >= 6


def test_pools_do_not_grow_with_the_data():
    for shards in (4, 256):
        order = EpochOrder([1000] * shards, lanes=4, seed="1")
        sizes = [order.pool_size(pool) for pool in range(order.pools_per_epoch)]
        assert max(sizes) <= SAMPLES_PER_POOL
        ranges = [order.sample_ranges(pool) for pool in range(order.pools_per_epoch)]
        assert max(map(len, ranges)) <= PIECES_PER_POOL + 2


def test_shards_come_in_an_order_of_their_own_in_each_epoch():
    order = EpochOrder([100] * 50, lanes=1, seed="1")
    firsts = [
        [r.shard for r in order.sample_ranges(epoch * order.pools_per_epoch)] for epoch in range(2)
    ]
    assert firsts[0] != firsts[1]
    assert firsts[0] != sorted(firsts[0])


def test_lanes_give_out_an_epoch_together():
    sizes, lanes = [97] * 5, 8
    order = EpochOrder(sizes, lanes=lanes, seed="1")
    assert order.pools_per_epoch % lanes == 0
