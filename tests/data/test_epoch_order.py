"""The order of an epoch: every sample once, shards mixed, lanes apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_omni.data.epoch_order import EpochOrder

SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


def samples(order, pool):
    found = [(r.shard, i) for r in order.ranges(pool) for i in range(r.start, r.stop)]
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


def test_with_many_shards_a_lane_reads_whole_ones():
    order = EpochOrder([100] * 256, lanes=4, seed="1")
    ranges = [r for pool in range(order.pools_per_epoch) for r in order.ranges(pool)]
    shards = [r.shard for r in ranges]
    assert shards != sorted(shards)
    assert order.pieces == 1
    assert sum((r.start, r.stop) == (0, 100) for r in ranges) == 256


def test_lanes_give_out_an_epoch_together():
    sizes, lanes = [97] * 5, 8
    order = EpochOrder(sizes, lanes=lanes, seed="1")
    assert order.pools_per_epoch % lanes == 0
