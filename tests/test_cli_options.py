"""Old names of options and verbs, and options that are misspelt."""

import json
import logging

import pytest

from lightning_omni.cli_messages import add_suggestion
from lightning_omni.cli_options import (
    ALIASES,
    inline_options,
    inline_recipes,
    new_option_name,
    rename_options,
    rename_verb,
)
from lightning_omni.errors import OmniError, did_you_mean
from lightning_omni.old_names import MODULES, log_once

NEW = ["preset", "num_steps", "guidance_scale", "infill_text", "intervals", "history", "sampler"]


@pytest.fixture(autouse=True)
def forgotten():
    """No rename was logged before."""
    log_once.cache_clear()


@pytest.mark.parametrize(("old", "new"), [(o, n) for o, n in ALIASES.items() if o != "from"])
def test_an_old_option_is_renamed_and_the_new_name_logged_once(old, new, caplog):
    caplog.set_level(logging.WARNING)
    args = [f"--{old}", "1", f"--{old}=2", f"--config.{old}", "3"]
    assert rename_options(args, [new]) == [f"--{new}", "1", f"--{new}=2", f"--config.{old}", "3"]
    assert caplog.messages == [f"the option '{old}' is now '{new}'"]


@pytest.mark.parametrize("old", ALIASES)
def test_a_verb_that_has_the_old_name_keeps_it(old):
    assert new_option_name(old, [old]) == old
    assert new_option_name(old, [old, ALIASES[old]]) == old
    assert new_option_name(old, ["other"]) == old


def test_settings_of_generation_inside_an_option_are_renamed():
    assert new_option_name("sampling.steps", ["sampling"]) == "sampling.num_steps"
    assert new_option_name("other.steps", ["other"]) == "other.steps"
    assert new_option_name("sampling.steps", ["num_steps"]) == "sampling.steps"


def test_an_old_setting_in_a_file_that_changes_nothing_is_ignored(tmp_path, caplog):
    path = tmp_path / "options.yaml"
    path.write_text("variants: {a: {sampling: {length: fitted, steps: 3}}}\n")
    (arg,) = inline_options("experiment", ["--config", str(path)], ["variants"])
    assert json.loads(arg.removeprefix("--config=")) == {
        "variants": {"a": {"sampling": {"num_steps": 3}}}
    }
    assert "the setting 'length: fitted' is ignored" in caplog.text


def test_settings_of_generation_in_a_file_are_renamed_but_not_their_names(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(
        "ways: {steps: {steps: 3}, best: {quality: best}}\n"
        "variants: {a: {sampling: {shift: 2.0}, set: {trace: 1}}}\nsampling: {guidance: 1}\n"
    )
    (arg,) = inline_options(
        "calibrate", ["--config", str(path)], ["configs", "variants", "sampling"]
    )
    assert json.loads(arg.removeprefix("--config=")) == {
        "configs": {"steps": {"num_steps": 3}, "best": {"preset": "best"}},
        "variants": {"a": {"sampling": {"timestep_shift": 2.0}, "set": {"trace": 1}}},
        "sampling": {"guidance_scale": 1},
    }


def test_an_alias_that_stays_is_not_logged(caplog):
    assert rename_options(["--from", "dream"], ["kind"]) == ["--kind", "dream"]
    assert not caplog.messages


def test_values_stay_unless_they_are_old_class_paths():
    old = "lightning_omni.nn.frames.MelFrameEncoder"
    new = "lightning_omni.nn.codec.mel_codec.MelFrameEncoder"
    assert "nn.frames" in MODULES
    given = ["--text", "steps", "--sampler", old, f"--sampler={old}"]
    assert rename_options(given, NEW) == ["--text", "steps", "--sampler", new, f"--sampler={new}"]


def test_old_names_in_a_file_of_options_are_renamed(tmp_path, caplog):
    path = tmp_path / "options.yaml"
    path.write_text("quality: best\nsteps: 3\nsampler: {class_path: lightning_omni.nn.lfq.X}\n")
    (arg,) = inline_options("generate", ["--config", str(path)], NEW)
    assert arg == (
        '--config={"preset": "best", "num_steps": 3, '
        '"sampler": {"class_path": "lightning_omni.nn.codec.lookup_free.X"}}'
    )
    assert "the option 'quality' is now 'preset'" in caplog.messages


def test_a_misspelt_option_in_a_file_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("num_step: 3\npreset: best\n")
    with pytest.raises(OmniError, match=r"unknown option num_step \(did you mean 'num_steps'"):
        inline_options("generate", [f"--config={path}"], NEW)


def test_an_old_verb_becomes_options_of_another(caplog):
    renamed = rename_verb(["shrink", "--model", "m", "--out=o"])
    export = ["export", "--format", "safetensors", "--dtype", "float16"]
    assert renamed == [*export, "--model", "m", "--output=o"]
    assert "the verb 'shrink' is now 'export" in caplog.text
    assert rename_verb(["generate", "--out", "o"]) == ["generate", "--out", "o"]
    assert rename_verb([]) == []


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("unrecognized arguments: --presett best", " (did you mean 'preset'?)"),
        ("Unrecognized arguments: --zzz 1", ""),
        ("sampling: Option 'preste' is not accepted", " (did you mean 'preset'?)"),
        ("something else", ""),
    ],
)
def test_the_nearest_option_is_named(message, hint):
    assert add_suggestion(message, NEW) == message + hint


def test_the_nearest_name_of_several():
    assert did_you_mean("generat", ["fit", "generate"]) == " (did you mean 'generate'?)"
    assert did_you_mean("xyz", ["fit", "generate"]) == ""


def test_a_list_that_a_later_argument_replaces_gives_it_nothing(tmp_path):
    """Else `every_n_steps` of `Samples` would become that of an average at the same index."""
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("trainer: {callbacks: [{class_path: A}], plugins: [P], max_steps: 3}")
    other.write_text("trainer: {callbacks: [{class_path: B}]}")

    def lists(*args):
        found = inline_recipes("fit", args)
        read = [json.loads(arg.partition("=")[2])["trainer"] for arg in found if "={" in arg]
        return [(one.get("callbacks"), one.get("plugins")) for one in read]

    first, second = [{"class_path": "A"}], [{"class_path": "B"}]
    assert lists("--config", str(one)) == [(first, ["P"])]
    assert lists("-c", str(one), "-c", str(other)) == [(None, ["P"]), (second, None)]
    replaced = lists("-c", str(one), "-c", str(other), "--trainer.callbacks", "null")
    assert replaced == [(None, ["P"]), (None, None)]
    assert lists("-c", str(one), "--trainer.callbacks+=C") == [(first, ["P"])]
    assert lists("--trainer.callbacks", "[]", "-c", str(one)) == [(first, ["P"])]
