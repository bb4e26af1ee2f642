from pathlib import Path

import pytest

from lightning_omni.errors import OmniError
from lightning_omni.recipe import read_recipe
from lightning_omni.studies.experiments.recipe import (
    json_digest,
    load_recipe,
    with_output_folder,
    with_seed,
    with_settings,
    write_recipe,
)

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def recipe():
    return load_recipe(RECIPES / "debug" / "stage3.yaml")


def test_files_that_a_recipe_names_are_put_in_their_place(recipe):
    backbone = read_recipe(RECIPES / "model" / "debug.yaml")
    assert recipe["model"]["init_args"]["backbone"] == backbone


def test_a_recipe_that_is_written_and_read_is_the_same(recipe, tmp_path):
    write_recipe(recipe, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no options"),
        ("data: {init_args: {}}", "no section trainer"),
        ("{trainer: {}, data: {init_args: {}}, model: x.yaml}", "no section model.init_args"),
        ("{trainer: {}, data: {init_args: {}}, model: {init_args: {}}}", "default_root_dir"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(OmniError, match=message):
        load_recipe(path)


def test_settings_reach_into_tables_and_lists_and_leave_the_recipe_as_it_was(recipe):
    before = json_digest(recipe)
    changed = with_settings(
        recipe,
        {
            "model.init_args.backbone.init_args.dim": 64,
            "trainer.callbacks.1.init_args.decay": 0.5,
            "trainer.accumulate_grad_batches": 2,
        },
    )
    assert changed["model"]["init_args"]["backbone"]["init_args"]["dim"] == 64
    assert changed["trainer"]["callbacks"][1]["init_args"]["decay"] == 0.5
    assert changed["trainer"]["accumulate_grad_batches"] == 2
    assert json_digest(recipe) == before


def test_a_setting_under_its_old_name_is_made_under_the_new_one(recipe):
    path = "model.init_args.backbone.init_args."
    changed = with_settings(recipe, {f"{path}is_shifted": True})
    assert changed == with_settings(recipe, {f"{path}right_shift_logits": True})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.arguments.dim", "nothing named 'model.arguments'"),
        ("trainer.callbacks.99", "nothing named 'trainer.callbacks'"),
        ("trainer.max_steps.deep", "nothing named 'trainer.max_steps'"),
        ("seed_everything", "decides 'seed_everything' itself"),
        ("data.init_args.seed", "decides 'data.init_args.seed' itself"),
        ("model.init_args", "decides 'model.init_args.noise_seed' itself"),
        (
            "data.init_args.modality_dropout",
            "modality_dropout' no longer exists: .* condition_drop",
        ),
    ],
)
def test_a_setting_that_cannot_be_made_is_refused(recipe, path, message):
    with pytest.raises(OmniError, match=message):
        with_settings(recipe, {path: 1})


def test_only_the_trainer_s_own_places_move(recipe):
    recipe["trainer"]["default_root_dir"] = "runs/debug"
    recipe["trainer"]["logger"] = {"init_args": {"save_dir": "runs/debug/"}}
    recipe["trainer"]["callbacks"][0]["init_args"]["dirpath"] = "runs/debugging"
    moved = with_output_folder(recipe, Path("here"))
    assert moved["trainer"]["default_root_dir"] == "here"
    assert moved["trainer"]["logger"]["init_args"]["save_dir"] == "here/"
    assert moved["trainer"]["callbacks"][0]["init_args"]["dirpath"] == "runs/debugging"
    assert moved["data"] == recipe["data"]


def test_a_seed_is_that_of_everything(recipe):
    seeded = with_seed(recipe, 7)
    assert seeded["seed_everything"] == 7
    assert seeded["data"]["init_args"]["seed"] == 7
    assert seeded["model"]["init_args"]["noise_seed"] == 7
