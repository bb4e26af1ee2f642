"""Laws of the tokenizers' training streams."""

from itertools import islice

import numpy as np
import pytest
import torch

from lightning_omni.data.image_data import ImageData, Images
from lightning_omni.data.resumable import EndlessBatches, ResumableData
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.errors import OmniError


def images(num_pictures=10, batch_size=3):
    data = ImageData("unused", image_size=2, batch_size=batch_size, seed=1)
    names = torch.arange(num_pictures, dtype=torch.uint8)[:, None, None, None]
    data.images = {"train": Images(names.expand(-1, 3, 2, 2).contiguous())}
    return data


def speech():
    data = SpeechData("unused", sample_rate=4000, crop_s=0.1, batch_size=4, val_batches=2, seed=1)
    data.waves = dict.fromkeys(("train", "val"), torch.arange(40_000.0))
    return data


def take(data, n):
    return list(islice(iter(data.train_dataloader()), n))


@pytest.mark.parametrize("make", [images, speech])
@pytest.mark.parametrize("used", [1, 4, 7])
def test_a_resumed_stream_goes_on_where_it_stopped(make, used):
    whole = take(make(), 9)
    again = make()
    again.load_state_dict({"batches_used": used})
    for one, two in zip(whole[used:], take(again, 9 - used), strict=True):
        assert torch.equal(one, two)


def test_two_ranks_share_the_batches_of_one():
    def draw(number):
        return torch.tensor(number)

    ranks = [EndlessBatches(draw, rank=r, world_size=2, first_batch=3) for r in range(2)]
    served = [int(n) for stream in ranks for n in islice(stream, 5)]
    assert sorted(served) == list(range(6, 16))


def test_an_epoch_shows_no_picture_twice_and_the_next_another_order():
    batches = take(images(), 6)
    names = [
        np.rint((torch.cat(epoch)[:, 0, 0, 0].numpy() + 1) * 127.5)
        for epoch in (batches[:3], batches[3:])
    ]
    assert all(len(set(epoch)) == 9 for epoch in names)
    assert names[0].tolist() != names[1].tolist()


def test_fewer_pictures_than_a_batch_are_refused():
    with pytest.raises(OmniError, match="2 training images, fewer than one batch of 3"):
        images(num_pictures=2).train_dataloader()


def test_another_number_of_processes_goes_on_behind_what_all_have_used():
    data = ResumableData()
    data.load_state_dict({"batches_used": 6, "world_size": 2})
    assert data.batches_used == 12
    assert data.state_dict() == {"batches_used": 12, "world_size": 1}
