import inspect
from pathlib import Path

import pytest
import yaml

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.studies.experiments.command import experiment
from lightning_omni.studies.experiments.variants import Variant, resolve_recipes

RECIPES = Path(__file__).parents[3] / "recipes"
DEBUG = RECIPES / "debug" / "stage3.yaml"
ARGUMENTS = {
    **{"name": "a", "claim": "b", "variants": {"one": Variant(), "two": Variant()}, "seeds": [1]},
    **{"out": Path("out"), "tasks": ["vqa"], "split": "val", "limit": 1, "speech_limit": 1},
    **{"evaluation_seed": 0, "recipes": [DEBUG]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "got no variant; name at least two"),
        ({"variants": {"one": Variant()}}, "got only 'one'"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 1]}, "wanted each once"),
        ({"seeds": [-1]}, "seeds is -1"),
        ({"recipes": [Path("absent.yaml")]}, "no recipe at 'absent.yaml'"),
        ({"recipes": None}, "variant 'one' has no recipe"),
        ({"tasks": ["dance"]}, "unknown task 'dance'"),
        ({"split": "exam"}, "unknown split 'exam'"),
        ({"limit": 0}, "wanted at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": "trained"}, "name is 'trained'"),
        ({}, "variant 'one', .*no manifest.json"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OmniError, match=message):
        experiment(**{**ARGUMENTS, **change})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.init_args.weight_decoy": 1}, "weight_decoy"),
        ({"trainer.max_stops": 1}, "max_stops"),
        ({"data.init_args.rows": "many"}, "rows"),
        ({"data.init_args.rows": 0}, "data.rows is 0, wanted at least 1$"),
        ({"model.init_args.backbone.init_args.width": 1}, "width"),
        ({"run_defaults": ["logger"]}, "add export to run_defaults"),
        ({"model.arguments.x": 1}, "nothing named 'model.arguments'"),
    ],
)
def test_a_wrong_setting_is_told_with_its_variant(settings, message):
    with pytest.raises(OmniError, match=r"(?s)variant 'a', .*stage3\.yaml: .*" + message):
        resolve_recipes("a", Variant(set=settings), [DEBUG])


def test_a_tokenizer_s_recipe_is_no_variant():
    with pytest.raises(OmniError, match="wanted a MaskedDiffusionModule"):
        resolve_recipes("a", Variant(recipes=[RECIPES / "debug" / "image_tokenizer.yaml"]), [DEBUG])


def test_a_variant_of_its_own_recipes_leaves_the_experiment_s_out():
    demo = [RECIPES / "demo" / f"stage{n}.yaml" for n in (1, 2, 3)]
    found = resolve_recipes("a", Variant({}, GenerationConfig(num_steps=8), demo), [DEBUG])
    assert [path for path, _, _ in found] == demo


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_recipe_names_what_has_no_default_and_what_differs_from_it(path):
    options = inspect.signature(experiment).parameters
    named = yaml.safe_load(path.read_text())
    required = {name for name, option in options.items() if option.default is option.empty}
    assert required <= named.keys() <= options.keys()
    assert all(named[name] != options[name].default for name in named)
