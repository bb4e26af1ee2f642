"""Settings of generation: their ranges, their presets, and their form in files."""

import json
from dataclasses import fields

import pytest
import torch

from lightning_omni.argument_checks import MAX_SEED, check_seed
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import (
    GenerationConfig,
    autocast_dtype,
    config_from_dict,
    config_of_modality,
    config_to_dict,
    rename_old_settings,
)
from lightning_omni.generation.modality_defaults import PRESETS
from lightning_omni.generation.presets import load_presets, resolve_preset, save_presets
from lightning_omni.old_names import log_once
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.samplers.threshold import Threshold

CONFIGS = [
    GenerationConfig(),
    GenerationConfig(num_steps=8, guidance_scale=1.0, response_length=7),
    GenerationConfig(sampler=Threshold(0.7), block_size=16),
    GenerationConfig(sampler=ReMDM(0.1, "rescale")),
    GenerationConfig(timestep_shift=0.33),
    GenerationConfig(response_length=20, adjust_length=True),
    GenerationConfig(sampler=EntropyPenalty(), history=True, stop_at_end=False, cache_interval=3),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_survives_being_written_down(config):
    again = config_from_dict(json.loads(json.dumps(config_to_dict(config))))
    assert config_to_dict(again) == config_to_dict(config)
    for name in (f.name for f in fields(config) if f.name != "sampler"):
        assert getattr(again, name) == getattr(config, name)
    if config.sampler is not None:
        assert type(again.sampler) is type(config.sampler)


def test_presets_are_kept_and_what_the_user_gives_goes_first(tmp_path):
    save_presets({"fast": {"t2i": CONFIGS[1], "tts": CONFIGS[2]}}, tmp_path)
    kept = load_presets(tmp_path)
    assert config_to_dict(kept["fast"]["tts"]) == config_to_dict(CONFIGS[2])
    assert resolve_preset(GenerationConfig(preset="fast"), "t2i", kept).num_steps == 8
    assert resolve_preset(GenerationConfig(preset="fast", num_steps=3), "t2i", kept).num_steps == 3
    assert (
        resolve_preset(GenerationConfig(preset="fast", num_steps=3), "t2i", kept).response_length
        == 7
    )
    for config, task in ((GenerationConfig(), "t2i"), (GenerationConfig(preset="fast"), "vqa")):
        assert resolve_preset(config, task, kept) is config


def test_a_calibrated_preset_may_be_what_another_one_is_by_default():
    kept = {"best": {"t2i": GenerationConfig(), "tqa": GenerationConfig(preset="fast")}}
    assert resolve_preset(GenerationConfig(preset="best"), "t2i", kept) == GenerationConfig()
    found = resolve_preset(GenerationConfig(preset="best", num_steps=3), "tqa", kept)
    assert found == GenerationConfig(preset="fast", num_steps=3)


def test_what_the_user_gives_is_not_overridden_by_what_was_calibrated():
    kept = {"fast": {"t2i": GenerationConfig(sampler=Threshold(0.7), num_steps=8)}}
    own = GenerationConfig(preset="fast", temperature=0.5, steps_per_token=0.5)
    warm = resolve_preset(own, "t2i", kept)
    assert (warm.temperature, warm.sampler) == (0.5, None)
    assert warm.steps_for(100, PRESETS["fast"]["image"]) == 50
    kept = {"fast": {"t2i": GenerationConfig(temperature=0.5)}}
    sampler = Threshold(0.7)
    found = resolve_preset(GenerationConfig(preset="fast", sampler=sampler), "t2i", kept)
    assert found.sampler is sampler


def test_a_temperature_that_a_sampler_would_not_use_is_refused():
    with pytest.raises(OmniError, match=r"set sampler\.temperature"):
        GenerationConfig(sampler=Threshold(0.7), temperature=1.0)


def test_two_numbers_of_steps_are_refused():
    with pytest.raises(OmniError, match=r"num_steps \(2\) and steps_per_token \(1\) .* leave one"):
        GenerationConfig(num_steps=2, steps_per_token=1.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": -2}, "num_steps is -2"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"cache_interval": 0}, "cache_interval is 0"),
        ({"block_size": 0}, "block_size is 0"),
        ({"timestep_shift": 0.0}, "timestep_shift is 0"),
        ({"response_length": 0}, "response_length is 0"),
        ({"steps_per_token": float("nan")}, "steps_per_token is nan"),
    ],
    ids=str,
)
def test_a_number_out_of_its_range_is_named(options, expected):
    with pytest.raises(OmniError, match=expected):
        GenerationConfig(**options)


def test_a_config_may_be_given_by_modality():
    configs = {"text": GenerationConfig(timestep_shift=0.33)}
    assert config_of_modality(configs, "text").timestep_shift == 0.33
    assert config_of_modality(configs, "image") == GenerationConfig()
    one = GenerationConfig(timestep_shift=3.0)
    assert config_of_modality(one, "text") is config_of_modality(one, "speech") is one


@pytest.mark.parametrize(("preset", "modality"), [(p, m) for p in PRESETS for m in PRESETS[p]])
@pytest.mark.parametrize("positions", [1, 2, 7, 64, 1000])
def test_there_is_a_step_and_no_more_than_one_for_each_masked_position(preset, modality, positions):
    defaults = PRESETS[preset][modality]
    for options in ({}, {"num_steps": 50}, {"steps_per_token": 0.0}, {"steps_per_token": 2.0}):
        assert 1 <= GenerationConfig(**options).steps_for(positions, defaults) <= positions
    assert GenerationConfig().steps_for(positions, defaults) <= defaults.max_steps


def test_presets_of_other_tasks_are_kept(tmp_path):
    save_presets({"fast": {"t2i": CONFIGS[1]}, "best": {"t2i": CONFIGS[0]}}, tmp_path)
    save_presets({"fast": {"tts": CONFIGS[2]}, "best": {"t2i": CONFIGS[1]}}, tmp_path)
    kept = load_presets(tmp_path)
    assert set(kept["fast"]) == {"t2i", "tts"}
    assert kept["best"]["t2i"].num_steps == 8


def test_a_model_without_a_calibration_has_no_presets(tmp_path):
    assert load_presets(tmp_path) == {}


@pytest.mark.parametrize("name", ["presets.json", "qualities.json"])
@pytest.mark.parametrize(
    "text",
    [
        '{"slow": {}}',
        '{"fast": {"t2i": {"speed": 3}}}',
        '{"fast": {"t2i": {"num_steps": 0}}}',
        '{"fast": {"t2i": {"sampler": {"class_path": "os.system"}}}}',
        '{"fast": {"t2i": {"length": "head"}}}',
        '{"fast": 3}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    with pytest.raises(OmniError, match=rf"{name}' is damaged"):
        load_presets(tmp_path)


OLD = {
    "fast": {
        "t2i": {"quality": "best", "guidance_scale": {"": 2.0}, "refresh_every": 4, "shift": 3.0},
        "tqa": {
            "quality": "fast",
            "num_steps": None,
            "guidance_scale": None,
            "final_guidance_scale": None,
            "sampler": {
                "class_path": "lightning_omni.samplers.threshold.Threshold",
                "init_args": {"threshold": 0.7, "temperature": 0.0},
            },
            "length": "fitted",
            "length_quantile": None,
            "grow": None,
            "trace": True,
        },
    }
}


def test_qualities_of_the_release_before_are_read_and_then_replaced(tmp_path):
    (tmp_path / "qualities.json").write_text(json.dumps(OLD))
    kept = load_presets(tmp_path)
    assert kept["fast"]["t2i"] == GenerationConfig(
        preset="best", guidance_scale=2.0, cache_interval=4, timestep_shift=3.0
    )
    found = kept["fast"]["tqa"]
    assert (found.preset, found.history, found.num_steps) == ("fast", True, None)
    assert isinstance(found.sampler, Threshold)
    save_presets({"fast": {"t2i": GenerationConfig(num_steps=2)}}, tmp_path)
    again = load_presets(tmp_path)
    assert again["fast"]["t2i"] == GenerationConfig(num_steps=2)
    assert config_to_dict(again["fast"]["tqa"]) == config_to_dict(found)
    assert json.loads((tmp_path / "presets.json").read_text())["fast"].keys() == {"t2i", "tqa"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", "longest"),
        ("length", "predicted"),
        ("length", "head"),
        ("length_quantile", 0.5),
        ("final_guidance_scale", 0.0),
        ("grow", {"start": 0.5}),
    ],
)
def test_a_removed_option_that_had_an_effect_is_refused_by_its_name(name, value):
    with pytest.raises(OmniError, match=f"the option '{name}' no longer exists: "):
        config_from_dict({name: value})
    with pytest.raises(OmniError, match=f"the option '{name}' no longer exists: "):
        rename_old_settings({name: value})


@pytest.mark.parametrize("scale", [{"image": 1.0}, {"text": 1.0, "image": 3.0}, {}])
def test_scales_by_modality_are_refused_as_an_error_of_the_user(scale):
    with pytest.raises(OmniError, match="guidance_scale"):
        config_from_dict({"guidance_scale": scale})


@pytest.mark.parametrize("shift", [{"text": 0.33}, {}])
def test_shifts_by_modality_are_refused_as_an_error_of_the_user(shift):
    with pytest.raises(OmniError, match="shift"):
        config_from_dict({"shift": shift})


def test_an_option_is_not_given_under_both_its_names():
    with pytest.raises(OmniError, match="refresh_every"):
        rename_old_settings({"refresh_every": 4, "cache_interval": 2})


def test_an_unknown_field_is_named():
    with pytest.raises(OmniError, match="speed"):
        config_from_dict({"speed": 3})


@pytest.mark.parametrize(("name", "known"), [("preset", "fast"), ("precision", "auto")])
def test_a_word_that_is_no_choice_is_refused(name, known):
    with pytest.raises(OmniError, match=f"{name} is 'odd', wanted one of {known}"):
        GenerationConfig(**{name: "odd"})


def test_every_seed_of_a_batch_fits_into_63_bits():
    check_seed(MAX_SEED)
    check_seed(MAX_SEED - 1, runs=2)
    with pytest.raises(OmniError, match=f"seed is {MAX_SEED}, wanted 0 to {MAX_SEED - 1}"):
        check_seed(MAX_SEED, runs=2)
    with pytest.raises(OmniError, match="seed is -1"):
        check_seed(-1)


def test_a_removed_setting_that_changes_nothing_is_ignored_with_a_log_line(caplog):
    log_once.cache_clear()
    assert rename_old_settings({"length": "fitted", "num_steps": 3}) == {"num_steps": 3}
    assert "the setting 'length: fitted' is ignored" in caplog.text
    with pytest.raises(OmniError, match="'length' no longer exists: response_length"):
        rename_old_settings({"length": "predicted"})


def test_products_are_in_bfloat16_on_gpus_and_in_float32_on_cpus_unless_told():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert autocast_dtype(GenerationConfig().precision, cpu) is torch.float32
    assert autocast_dtype(GenerationConfig().precision, gpu) is torch.bfloat16
    assert autocast_dtype("float32", gpu) is torch.float32
    assert autocast_dtype("bfloat16", cpu) is torch.bfloat16
