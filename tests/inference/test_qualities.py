"""What a calibration found is kept with the model and overruled by the user."""

import pytest

from lightning_omni.errors import OmniError
from lightning_omni.inference.plain_sampling import from_plain, to_plain
from lightning_omni.inference.qualities import load_qualities, resolve, save_qualities
from lightning_omni.inference.sampling import Sampling
from lightning_omni.samplers.growth import Growth
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.samplers.threshold import Threshold
from lightning_omni.samplers.token_editing import TokenEditing

WAYS = [
    Sampling(),
    Sampling(num_steps=8, guidance_scale={"image": 1.0}, length="predicted"),
    Sampling(sampler=Threshold(0.7), block_size=16),
    Sampling(sampler=TokenEditing(ReMDM(0.1, "rescale"), 0.8)),
    Sampling(length="head", length_quantile=0.7, grow=Growth(start=0.5)),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_survives_being_written_down(way):
    again = from_plain(to_plain(way))
    assert to_plain(again) == to_plain(way)
    assert again.grow == way.grow
    if way.sampler is not None:
        assert type(again.sampler) is type(way.sampler)


def test_qualities_are_kept_and_what_the_user_gives_goes_first(tmp_path):
    save_qualities({"fast": {"t2i": WAYS[1], "tts": WAYS[2]}}, tmp_path)
    kept = load_qualities(tmp_path)
    assert to_plain(kept["fast"]["tts"]) == to_plain(WAYS[2])
    assert resolve(Sampling(quality="fast"), "t2i", kept).num_steps == 8
    assert resolve(Sampling(quality="fast", num_steps=3), "t2i", kept).num_steps == 3
    assert resolve(Sampling(quality="fast", num_steps=3), "t2i", kept).length == "predicted"
    for way, task in ((Sampling(), "t2i"), (Sampling(quality="fast"), "vqa")):
        assert resolve(way, task, kept) is way


def test_other_tasks_keep_what_is_known_of_them(tmp_path):
    save_qualities({"fast": {"t2i": WAYS[1]}, "best": {"t2i": WAYS[0]}}, tmp_path)
    save_qualities({"fast": {"tts": WAYS[2]}, "best": {"t2i": WAYS[1]}}, tmp_path)
    kept = load_qualities(tmp_path)
    assert set(kept["fast"]) == {"t2i", "tts"}
    assert kept["best"]["t2i"].num_steps == 8


def test_a_model_without_a_calibration_has_no_qualities(tmp_path):
    assert load_qualities(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"slow": {}}',
        '{"fast": {"t2i": {"speed": 3}}}',
        '{"fast": {"t2i": {"num_steps": 0}}}',
        '{"fast": {"t2i": {"sampler": {"class_path": "os.system"}}}}',
        '{"fast": 3}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "qualities.json").write_text(text)
    with pytest.raises(OmniError, match=r"qualities.json' is damaged"):
        load_qualities(tmp_path)
