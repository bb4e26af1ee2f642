"""Codes come back in stored order, and the host works while a device computes."""

import numpy as np
import torch

from lightning_omni.data.encoding.computed_batches import (
    ComputedBatch,
    encode_in_batches,
    group_by_length,
    split_into_groups,
)


def test_media_of_several_lengths_come_back_in_stored_order():
    waves = [torch.full((1, n), float(index)) for index, n in enumerate((3, 5, 3, 0, 5, 3))]
    indices = group_by_length(waves)
    assert indices == [[0, 2, 5], [1, 4], [3]]
    parts = [(at, torch.cat([waves[p] for p in at]).long()) for at in indices]
    found = list(ComputedBatch(list("abcdef"), parts).read(np.dtype("<i4")))
    assert [key for key, _ in found] == list("abcdef")
    for index, (_, codes) in enumerate(found):
        assert codes.dtype == np.dtype("<i4")
        assert codes.tolist() == [index] * waves[index].shape[1]


def test_a_batch_is_read_when_the_next_one_is_prepared_and_before_it_is_sent(monkeypatch):
    """A copy from a device waits for all that was sent to it."""
    events, read = [], ComputedBatch.read

    def prepared():
        for number in range(3):
            events.append(("prepared", number))
            yield number

    def compute(number):
        events.append(("sent", number))
        return ComputedBatch([str(number)], [([0], torch.tensor([[number]]))])

    def noted(batch, dtype):
        events.append(("read", int(batch.keys[0])))
        return read(batch, dtype)

    monkeypatch.setattr(ComputedBatch, "read", noted)
    for key, codes in encode_in_batches(prepared(), compute, np.dtype("<i4")):
        assert codes.tolist() == [int(key)]
        events.append(("given", int(key)))
    assert events == [
        ("prepared", 0),
        ("sent", 0),
        ("prepared", 1),
        ("read", 0),
        ("sent", 1),
        ("given", 0),
        ("prepared", 2),
        ("read", 1),
        ("sent", 2),
        ("given", 1),
        ("read", 2),
        ("given", 2),
    ]
    assert not list(encode_in_batches([], compute, np.dtype("<i4")))


def test_groups_hold_all_items_in_order():
    assert list(split_into_groups(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(split_into_groups(range(4), 2)) == [[0, 1], [2, 3]]
    assert not list(split_into_groups([], 2))
