"""Recipes that build on others, name files and use old names."""

import logging

import pytest

from lightning_omni import old_names
from lightning_omni.errors import OmniError
from lightning_omni.pretrained import build_module
from lightning_omni.recipe import merge_recipes, read_recipe

EMA = {"class_path": "EMA", "init_args": {"decay": 0.9, "buffers": False}}


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def test_mappings_are_merged_and_other_values_replaced():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert merge_recipes(base, {"a": {"c": [3]}, "d": 4, "e": 5}) == {
        "a": {"b": 1, "c": [3]},
        "d": 4,
        "e": 5,
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": None}


def test_another_class_takes_no_arguments_from_the_base():
    base = {"class_path": "A", "init_args": {"x": 1}}
    other = {"class_path": "B", "init_args": {"y": 1}}
    assert merge_recipes(base, other) == other
    assert merge_recipes(base, {"class_path": "A", "init_args": {"y": 2}})["init_args"] == {
        "x": 1,
        "y": 2,
    }
    assert merge_recipes(base, {"init_args": {"x": 3}}) == {
        "class_path": "A",
        "init_args": {"x": 3},
    }


def test_callbacks_of_the_same_class_are_merged_in_place_and_others_appended():
    changes = [{"class_path": "B"}, {"class_path": "EMA", "init_args": {"decay": 0.5}}]
    merged = merge_recipes({"callbacks": [EMA, {"class_path": "C"}]}, {"callbacks": changes})[
        "callbacks"
    ]
    assert [c["class_path"] for c in merged] == ["EMA", "C", "B"]
    assert merged[0]["init_args"] == {"decay": 0.5, "buffers": False}
    assert EMA["init_args"]["decay"] == 0.9


def test_files_are_found_beside_the_file_that_names_them(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", small="{class_path: T, init_args: {dim: 1, heads: 2}}")
    write(tmp_path, base="{seed: 1, backbone: model/small.yaml, other: absent.yaml}")
    path = write(tmp_path, mine="base: base.yaml\nbackbone: {init_args: {dim: 8}}\nlr: 1e-3\n")
    assert read_recipe(path) == {
        "seed": 1,
        "backbone": {"class_path": "T", "init_args": {"dim": 8, "heads": 2}},
        "other": "absent.yaml",
        "lr": 0.001,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: mine.yaml", "builds on itself"),
        ("base: gone.yaml", "no YAML file beside it"),
        ("a: [", "is not YAML"),
        ("- 1", "holds no options"),
        ("", "holds no options"),
    ],
)
def test_what_is_not_a_recipe_is_refused(tmp_path, text, words):
    with pytest.raises(OmniError, match=words):
        read_recipe(write(tmp_path, mine=text))
    with pytest.raises(OmniError, match=r"gone\.yaml"):
        read_recipe(tmp_path / "gone.yaml")


def test_old_classes_and_arguments_are_renamed_and_removed_ones_left_out(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    monkeypatch.setitem(old_names.ARGUMENTS, "colour", "color")
    monkeypatch.setitem(old_names.REMOVED, "extra", "nothing used it")
    monkeypatch.setitem(old_names.REMOVED, "unused", "nothing used it")
    path = write(
        tmp_path,
        old="a: {class_path: lightning_omni.nn.conv.C, "
        "init_args: {colour: 1, extra: {b: 2}, unused: 0}}",
    )
    new = {"class_path": "lightning_omni.nn.codec.magvit.C", "init_args": {"color": 1}}
    for _ in range(2):
        assert read_recipe(path) == {"a": new}
    assert [m for m in caplog.messages if "colour" in m] == ["the argument 'colour' is now 'color'"]
    assert [m for m in caplog.messages if "ignored" in m] == [
        "the argument 'extra' is ignored: nothing used it"
    ]


def test_exports_that_hold_old_arguments_are_built(monkeypatch):
    monkeypatch.setitem(old_names.ARGUMENTS, "old_latent_dim", "latent_dim")
    config = {
        "class_path": "lightning_omni.nn.frames.MelFrameEncoder",
        "init_args": {"sample_rate": 16000, "width": 8, "blocks": [1, 1, 1], "old_latent_dim": 4},
    }
    assert build_module(config).init_args["latent_dim"] == 4
