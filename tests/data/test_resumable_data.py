"""Laws of the tokenizers' training streams, and of positions in checkpoints."""

import io
import json
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tar_files import write_tar

from lightning_omni.data.image_data import ImageData
from lightning_omni.data.media_reader import DecodedMediaCache
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.errors import OmniError

LANES = 4


def png(level):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(start, seconds=0.3, rate=4000):
    """A ramp that tells where in which clip a sample lies."""
    wave = (start + np.arange(round(seconds * rate))).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"layout": 1}))
    for split in ("train", "val"):
        pictures = [(f"p{i}.png", png(10 * i)) for i in range(10)]
        write_tar(tmp_path / "media" / f"image-{split}-000000.tar", pictures)
        clips = [(f"c{i}.wav", wav(2000 * i)) for i in range(8)]
        write_tar(tmp_path / "media" / f"speech-{split}-000000.tar", clips)
    return tmp_path


def images(folder, **changes):
    options = {"image_size": 2, "batch_size": 3, "seed": 1, "lanes": LANES, **changes}
    data = ImageData(str(folder), **options)
    data.setup("fit")
    return data


def speech(folder, **changes):
    options = {"sample_rate": 4000, "crop_s": 0.1, "batch_size": 4, "val_batches": 2, "seed": 1}
    data = SpeechData(str(folder), **{**options, "lanes": LANES, **changes})
    data.setup("fit")
    return data


def take(data, n):
    """Use batches as a trainer does."""
    loader = iter(data.train_dataloader())
    return [data.on_before_batch_transfer(next(loader), 0) for _ in range(n)]


@pytest.mark.parametrize("make", [images, speech])
@pytest.mark.parametrize("used", [1, 4, 7])
def test_a_resumed_stream_goes_on_where_it_stopped(folder, make, used):
    whole = take(make(folder), 9)
    stopped, again = make(folder), make(folder)
    take(stopped, used)
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for one, two in zip(whole[used:], take(again, 9 - used), strict=True):
        assert torch.equal(one, two)


def test_a_position_is_kept_over_a_second_resume(folder):
    whole, found, state = take(images(folder), 9), [], None
    for steps in (2, 3, 4):
        data = images(folder)
        if state is not None:
            data.load_state_dict(state)
        found += take(data, steps)
        state = data.state_dict()
    assert all(torch.equal(one, two) for one, two in zip(whole, found, strict=True))
    assert state["micro_batches"] == 9


def test_what_is_fetched_ahead_is_not_used(folder):
    data = images(folder)
    loader = iter(data.train_dataloader())
    data.on_before_batch_transfer(next(loader), 0)
    next(loader)
    assert data.state_dict()["micro_batches"] == 1
    assert list(data.state_dict()["positions"]) == ["0"]


def test_all_pictures_come_equally_often(folder):
    levels = torch.cat(take(images(folder, batch_size=5), 2 * LANES))[:, 0, 0, 0]
    _, counts = levels.unique(return_counts=True)
    assert len(counts) == 10
    assert int(counts.max() - counts.min()) <= LANES


def test_a_crop_goes_from_anywhere_in_a_clip_on_into_the_next(folder):
    crops = (torch.cat(take(speech(folder), 3)) * 32768).round()
    for crop in crops:
        jumps = (crop.diff() != 1).nonzero().flatten() + 1
        assert len(jumps) <= 1
        assert all(int(crop[at]) % 2000 == 0 for at in jumps)  # where the next clip begins
        assert all(int(crop[at - 1]) % 2000 == 1199 for at in jumps)  # where the first one ends


def test_all_parts_of_clips_come_equally_often(folder):
    crops = (torch.cat(take(speech(folder, batch_size=32), 40 * LANES)) * 32768).round()
    parts = crops.long().remainder(2000).div(120, rounding_mode="floor")
    share = parts.flatten().bincount(minlength=10) / parts.numel()
    assert len(share) == 10
    assert torch.allclose(share, torch.tensor(0.1), atol=0.01)


def test_short_clips_are_joined_to_a_crop(folder):
    crops = take(speech(folder, crop_s=0.7), 1)[0]
    assert crops.shape == (4, 2800)


def test_validation_sees_the_same_each_time(folder):
    pictures, crops = images(folder), speech(folder)
    assert len(torch.cat(list(pictures.val_dataloader()))) == 10
    for data in (pictures, crops):
        first, second = (list(data.val_dataloader()) for _ in range(2))
        assert len(first) == len(second) > 1
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_folder_without_pictures_is_refused(folder):
    (folder / "media" / "image-train-000000.tar").unlink()
    with pytest.raises(OmniError, match="no shards of 'image', split 'train'"):
        images(folder)


def test_decoded_media_are_kept_up_to_a_limit(folder):
    decoded = []

    def decode(content, name):
        decoded.append(name)
        return torch.zeros(10, dtype=torch.uint8)

    media = DecodedMediaCache(decode, limit=25)
    for _ in range(2):
        for key in "abc":
            media(key, {"png": b""}, folder)
    assert decoded == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lanes": 8}, r"data\.lanes 8 \(checkpoint: 4\)"),
        ({"lanes": 8, "seed": 2}, r"lanes 8 \(checkpoint: 4\), data\.seed 2 \(checkpoint: 1\)"),
        ({"seed": 2}, r"data\.seed 2 \(checkpoint: 1\)"),
    ],
)
def test_a_position_in_another_stream_is_refused(folder, changes, words):
    data = images(folder)
    take(data, 3)
    with pytest.raises(OmniError, match=words):
        images(folder, **changes).load_state_dict(data.state_dict())


def test_other_data_are_refused(folder):
    state = images(folder).state_dict()
    (folder / "manifest.json").write_text(json.dumps({"layout": 1, "preset": "other"}))
    with pytest.raises(OmniError, match=r"other training data .* data\.data .* start a new run"):
        images(folder).load_state_dict(state)


def test_a_checkpoint_of_before_lanes_starts_the_data_again_and_says_so(folder, caplog):
    data = images(folder)
    data.load_state_dict({"batches_used": 6, "world_size": 2})
    assert "start again at the first sample" in caplog.text
    assert data.state_dict()["micro_batches"] == 0


def test_lanes_of_other_processes_are_kept(folder):
    data = ResumableData(LANES)
    positions = {"0": {"cursor": [1, 0]}, "3": {"cursor": [0, 2]}}
    data.load_state_dict(
        {"micro_batches": 6, "positions": positions, "stream": data.stream_identity()}
    )
    assert data.state_dict()["positions"] == positions
    assert list(islice(data.state_dict(), 1)) == ["micro_batches"]
