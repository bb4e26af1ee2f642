import inspect
from pathlib import Path

import pytest
import yaml

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import evaluate
from lightning_omni.evaluation.infilling import evaluate_infilling
from lightning_omni.evaluation.provenance import git_commit, provenance
from lightning_omni.evaluation.tokenizers import evaluate_tokenizers
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.studies.calibrate import calibrate

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "eval").glob("*.yaml"))
VERBS = {
    **{"evaluate": evaluate, "evaluate-tokenizers": evaluate_tokenizers, "calibrate": calibrate},
    "evaluate-infilling": evaluate_infilling,
}
ARGUMENTS = {
    **{"model": Path("model"), "data": Path("data"), "out": Path("out"), "tasks": ["vqa"]},
    **{"splits": ["test_iid"], "limit": 1, "speech_limit": 1, "seed": 0},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["dance"]}, "unknown task 'dance'"),
        ({"tasks": ["chat"]}, "no test"),
        ({"splits": ["test"]}, "unknown split 'test'"),
        ({"limit": 0}, "wanted at least 1"),
        ({"tasks": ["vqa", "tqa", "vqa"]}, "vqa named twice"),
        ({"splits": ["val", "val"]}, "val named twice"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"tasks": []}, "nothing to evaluate"),
        ({"model": Path("absent")}, "absent"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_loaded(change, message):
    with pytest.raises(OmniError, match=message):
        evaluate(**{**ARGUMENTS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"tasks": ["vqa", "vqa"]}, "vqa named twice"),
        ({"configs": {}}, "no configs"),
        ({"model": Path("shipped"), "into_model": True}, "would change the bundled model"),
    ],
)
def test_a_calibration_s_mistake_too(change, message):
    arguments = {name: value for name, value in ARGUMENTS.items() if name != "splits"}
    with pytest.raises(OmniError, match=message):
        calibrate(**{**arguments, "split": "val", "configs": {"a": GenerationConfig()}, **change})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_names_what_has_no_default_and_what_differs_from_it(recipe):
    function = next(
        f for verb, f in VERBS.items() if f"lightning_omni {verb} " in recipe.read_text()
    )
    options = inspect.signature(function).parameters
    named = yaml.safe_load(recipe.read_text())
    required = {name for name, option in options.items() if option.default is option.empty}
    assert required <= named.keys() <= options.keys()
    assert all(named[name] != options[name].default for name in named)


def test_provenance_names_versions_and_the_commit_if_there_is_one():
    facts = provenance()
    assert facts["packages"]["torch"]
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("+changes")) == 40
