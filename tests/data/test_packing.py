import pickle
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.data.packing import pack_stream
from lightning_omni.errors import OmniError
from lightning_omni.types import Batch, ContinuousFeatures, TokenSequence


def sequence(length, key="s"):
    index, yes = np.arange(length), np.ones(length, dtype=bool)
    places = np.stack((index, index * 0, index * 0), axis=1)
    return TokenSequence(index, places, yes, ~yes, index * 0, 0, key)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 4))
def test_every_sequence_is_packed_once_and_whole(lengths, rows, lookahead):
    stream = [(index, sequence(n)) for index, n in enumerate(lengths)]
    seen = {}
    for batch in pack_stream(
        stream, rows=rows, row_length=16, pad_token_id=99, lookahead=lookahead
    ):
        assert batch.ids.shape == (rows * 16,)
        assert batch.num_rows == rows
        for n, (start, stop) in enumerate(pairwise(accumulate(batch.lengths, initial=0))):
            assert (batch.segment_ids[start:stop] == n).all()
            assert batch.positions[start:stop].tolist() == list(range(stop - start))
            if batch.tasks[n] >= 0:
                index = int(batch.sample_index[n])
                assert index not in seen
                seen[index] = batch.ids[start:stop].tolist()
            else:
                assert not batch.maskable[start:stop].any()
    assert seen == {index: list(range(n)) for index, n in enumerate(lengths)}


def test_no_segment_crosses_a_row():
    stream = [(i, sequence(5)) for i in range(7)]
    for batch in pack_stream(stream, rows=2, row_length=12, pad_token_id=99):
        first, second = batch.segment_ids.view(2, 12).tolist()
        assert not set(first) & set(second)


def test_a_sequence_longer_than_a_row_is_refused_by_key():
    with pytest.raises(OmniError, match="sample 'long' has 17 tokens but rows have 16"):
        list(pack_stream([(0, sequence(17, "long"))], rows=1, row_length=16, pad_token_id=0))


def test_a_batch_moves_as_one():
    (batch,) = pack_stream([(0, sequence(3))], rows=1, row_length=4, pad_token_id=0)
    moved = batch.to("meta")
    assert moved.ids.device.type == "meta"
    assert moved.lengths == batch.lengths == (3, 1)
    assert torch.equal(batch.ids, torch.tensor([0, 1, 2, 0]))
    assert torch.equal(batch.is_answer, torch.tensor([True, True, True, False]))


def with_features(length, width=2):
    plain = sequence(length)
    frames = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    return replace(plain, features=((1, frames),))


def same(one, two):
    """Whether two values of a batch hold the same numbers in tensors of the same kind."""
    if isinstance(one, ContinuousFeatures):
        return same(one.positions, two.positions) and same(one.features, two.features)
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return one == two


def values_of(batch):
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


@pytest.fixture
def batch():
    stream = [(0, sequence(3)), (1, with_features(4)), (2, sequence(5))]
    (packed,) = pack_stream(stream, rows=2, row_length=8, pad_token_id=0)
    return packed


def test_what_depends_on_the_layout_alone_is_packed_with_the_batch(batch):
    assert batch.lengths == (3, 4, 1, 5, 3)
    assert batch.cu_seqlens.tolist() == [0, 3, 7, 8, 13] + [16] * 60  # 64 segments
    assert batch.cu_seqlens.dtype == torch.int32
    assert torch.equal(batch.answer_positions, batch.is_answer.nonzero().squeeze(1))
    assert batch.continuous.positions.tolist() == [4, 5]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_batch_leaves_a_worker_as_arrays_and_arrives_as_it_was(batch, protocol):
    message = pickle.dumps(batch, protocol)
    assert b"storage" not in message
    arrived = pickle.loads(message)
    assert all(same(value, getattr(arrived, name)) for name, value in values_of(batch).items())
    arrived.ids[0] = 7  # it may be written to


def test_a_batch_leaves_a_worker_in_half_the_bytes_but_for_large_numbers(batch):
    large = replace(batch, sample_index=batch.sample_index + 2**40)
    arrived = pickle.loads(pickle.dumps(large))
    assert torch.equal(arrived.sample_index, large.sample_index)
    columns = [c for c in values_of(batch).values() if isinstance(c, torch.Tensor)]
    assert {c.dtype for c in columns} == {torch.int64, torch.int32, torch.bool}
    empty = replace(batch, **dict.fromkeys(("ids", "position_ids", "segment_ids"), torch.ones(0)))
    saved = len(pickle.dumps(batch)) - len(pickle.dumps(empty))
    assert saved < 1.1 * 4 * 5 * len(batch.ids)  # bytes of five numbers for each token


def test_tensors_of_other_devices_stay_tensors(batch):
    kind, values, halved = batch.to("meta").__reduce__()[1]
    assert kind is Batch
    assert halved == []
    assert values[0].device.type == "meta"


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, -(2**31) - 1])
def test_numbers_beyond_32_bits_leave_a_worker_as_they_are(number):
    sent = ContinuousFeatures(torch.tensor([number]), torch.zeros(1, 2))
    arrived = pickle.loads(pickle.dumps(sent))
    assert arrived.positions.dtype == torch.int64
    assert arrived.positions.tolist() == [number]


def test_all_tensors_of_a_batch_are_pinned(batch, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.float)
    pinned = batch.pin_memory()
    for name, value in values_of(batch).items():
        found = getattr(pinned, name)
        if isinstance(value, torch.Tensor):
            assert found.dtype == torch.float32
        elif name != "continuous":
            assert found == value
    assert pinned.continuous.positions.dtype == torch.float32


def test_a_batch_moves_without_waiting_unless_asked(batch, monkeypatch):
    seen = []
    move = torch.Tensor.to

    def watched(self, *args, non_blocking=False):
        seen.append(non_blocking)
        return move(self, *args)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    batch.to("cpu")
    assert set(seen) == {True}
    seen.clear()
    batch.to("cpu", non_blocking=False)
    assert set(seen) == {False}


def test_waiting_sequences_fill_rows_to_the_brim_and_do_not_wait_long():
    rng = Random(0)
    stream = [(index, sequence(rng.randint(20, 180))) for index in range(3000)]
    every = list(pack_stream(stream, rows=4, row_length=512, pad_token_id=0))
    assert sorted(int(v) for b in every for v in b.sample_index[b.tasks >= 0]) == list(range(3000))
    batches = every[:-3]
    used = sum(int((b.tasks[b.segment_ids] >= 0).sum()) for b in batches)
    assert used / sum(b.ids.numel() for b in batches) > 0.97
    first_seen = [int(b.sample_index[b.tasks >= 0].min()) for b in batches]
    last_seen = [int(b.sample_index[b.tasks >= 0].max()) for b in batches]
    assert max(hi - lo for hi, lo in zip(last_seen, first_seen, strict=True)) < 120
