"""What a calibration found is kept with the model and overruled by the user."""

import pytest
from lightning_omni.generation.defaults import QUALITIES
from lightning_omni.generation.plain_sampling import from_plain, to_plain
from lightning_omni.generation.qualities import load_qualities, resolve, save_qualities
from lightning_omni.samplers.growth import Growth
from lightning_omni.samplers.token_editing import TokenEditing

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import Sampling
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.samplers.threshold import Threshold

WAYS = [
    Sampling(),
    Sampling(num_steps=8, guidance_scale={"image": 1.0}, length="predicted"),
    Sampling(sampler=Threshold(0.7), block_size=16),
    Sampling(sampler=TokenEditing(ReMDM(0.1, "rescale"), 0.8)),
    Sampling(shift={"text": 0.33, "image": 3.0}),
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


def test_a_quality_may_be_what_another_one_is_by_default():
    kept = {"best": {"t2i": Sampling(), "tqa": Sampling(quality="fast")}}
    assert resolve(Sampling(quality="best"), "t2i", kept) == Sampling()
    assert resolve(Sampling(quality="best", num_steps=3), "tqa", kept) == Sampling(
        quality="fast", num_steps=3
    )


def test_what_the_user_gives_is_not_overruled_by_what_was_calibrated():
    kept = {"fast": {"t2i": Sampling(sampler=Threshold(0.7), num_steps=8)}}
    warm = resolve(Sampling(quality="fast", temperature=0.5, steps_per_token=0.5), "t2i", kept)
    assert (warm.temperature, warm.sampler) == (0.5, None)
    assert warm.steps_of(100, QUALITIES["fast"]["image"]) == 50
    kept = {"fast": {"t2i": Sampling(temperature=0.5)}}
    sampler = Threshold(0.7)
    assert resolve(Sampling(quality="fast", sampler=sampler), "t2i", kept).sampler is sampler


def test_a_temperature_that_a_sampler_would_not_see_is_refused():
    with pytest.raises(OmniError, match=r"set sampler\.temperature"):
        Sampling(sampler=Threshold(0.7), temperature=1.0)


def test_a_shift_may_be_of_one_modality():
    assert Sampling(shift=3.0).shift_of("text") == 3
    way = Sampling(shift={"text": 0.33})
    assert (way.shift_of("text"), way.shift_of("image")) == (0.33, 1.0)
    with pytest.raises(OmniError, match="shift is given for 'smell'"):
        Sampling(shift={"smell": 2.0})
    with pytest.raises(OmniError, match=r"shift\.text is 0"):
        Sampling(shift={"text": 0.0})


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


@pytest.mark.parametrize("length", ["fitted", "longest", "predicted"])
def test_a_quantile_that_no_head_is_asked_for_is_refused(length):
    with pytest.raises(OmniError, match=f"length is '{length}'.*set length: head"):
        Sampling(length=length, length_quantile=0.5)
