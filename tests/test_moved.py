"""Old names of arguments and modules are accepted for one release."""

import importlib
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from small_models import QWEN_SHAPE

from lightning_omni import cli
from lightning_omni.nn.transformer import Transformer
from lightning_omni.old_names import ARGUMENTS, PATHS, rename_arguments, rename_option

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"


def test_arguments_are_renamed_at_any_depth():
    old = {"init_args": {"is_shifted": True, "dim": 8}, "list": [{"rows_from": 3}]}
    new = {
        "init_args": {"right_shift_logits": True, "dim": 8},
        "list": [{"trainable_rows_from": 3}],
    }
    assert rename_arguments(old) == rename_arguments(new) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--model.backbone.is_shifted", "--model.backbone.right_shift_logits"),
        ("--model.lora.rows_from=9", "--model.lora.trainable_rows_from=9"),
        ("--model.init_from", "--model.init_from"),
        ("is_shifted", "is_shifted"),
    ],
)
def test_a_nested_option_is_renamed(old, new):
    assert rename_option(old) == new


def test_an_export_with_an_old_argument_loads(tmp_path):
    Transformer(20, [], **QWEN_SHAPE, right_shift_logits=True).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["init_args"]["is_shifted"] = config["init_args"].pop("right_shift_logits")
    path.write_text(json.dumps(config))
    assert Transformer.from_pretrained(tmp_path).right_shift_logits


@pytest.mark.parametrize("how", ["file", "option"])
def test_a_recipe_with_an_old_argument_builds(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe, model = RECIPES / "paper" / "stage3.yaml", RECIPES / "model" / "7b.yaml"
    before = "true" if how == "file" else "false"
    old = model.read_text().replace("right_shift_logits: true", f"is_shifted: {before}")
    Path("old.yaml").write_text(old)
    more = ["--model.backbone.is_shifted", "true"] if how == "option" else []
    build = partial(cli.build_cli, run=False, with_trainer=False)
    built = []
    monkeypatch.setattr(cli, "build_cli", lambda args: built.append(build(args[1:])))
    with torch.device("meta"):
        code = cli.main(["fit", "--config", str(recipe), "--model.backbone", "old.yaml", *more])
    assert code == 0
    assert built[0].model.backbone.right_shift_logits


def test_no_new_name_is_an_old_one():
    assert not set(ARGUMENTS) & set(ARGUMENTS.values())


@pytest.mark.parametrize("old", sorted(p for p in PATHS if p.startswith("data_prep.")))
def test_an_old_module_of_data_prep_is_importable_and_says_where_it_is(old, caplog):
    new = importlib.import_module(PATHS[old])
    names = [n for n, v in vars(new).items() if getattr(v, "__module__", None) == new.__name__]
    for name in names:
        assert getattr(importlib.import_module(old), name) is getattr(new, name)
        assert f"'{old}.{name}' is now '{new.__name__}.{name}'" in caplog.text
    assert names


def file_of(module):
    path = ROOT / module.replace(".", "/")
    return str(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(ROOT)
    )


def new_files():
    """The new files of each old one, by the page."""
    page = (ROOT / "docs/moved.md").read_text()
    for line in re.findall(r"^\| `[\w/]+\.py`.*\|$", page, re.MULTILINE):
        old, new = (re.findall(r"`(\S+\.py)`", cell) for cell in line.strip("| ").split(" | "))
        yield from ((file, new) for file in old)


@pytest.mark.parametrize("old", sorted(PATHS))
def test_the_page_leads_to_the_file_that_the_table_of_old_modules_names(old):
    path, rows = old.replace(".", "/"), dict(new_files())
    assert file_of(PATHS[old]) in (rows.get(f"{path}.py") or rows[f"{path}/__init__.py"])
