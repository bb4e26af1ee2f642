"""What is typed or stands in a recipe, and YAML or a shell would read otherwise."""

import os
import subprocess
import sys

import pytest

from lightning_omni.cli import parse_options
from lightning_omni.cli_options import plain_arguments
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.files import read_json_object
from lightning_omni.pretrained import resolve_pretrained
from lightning_omni.recipe import read_recipe

ODD = ["null", "~", "# hash", "&x", "yes", "3", "1e3", "[a]", "a: b", "${x}", '"q"', "~/x", ".inf"]


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_what_was_typed(text):
    for option in (["--text", text], [f"--text={text}"]):
        args = plain_arguments(["--task", "tqa", *option])
        assert parse_options("generate", args)["text"] == text


def test_the_name_of_the_output_may_be_any_word():
    assert parse_options("generate", ["--task", "tqa", "--out", "null"])["out"] == "null"
    assert parse_options("generate", ["--task", "tqa"])["out"] is None


def test_a_tilde_is_the_home_folder_on_the_command_line_and_in_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = ["fit", "--out=~/x", "--config", "~/r.yaml", "a~b", "--x=a/~", "--text", "~/x"]
    assert plain_arguments(args) == [
        "fit",
        f"--out={tmp_path}/x",
        "--config",
        f"{tmp_path}/r.yaml",
        "a~b",
        "--x=a/~",
        "--text",
        "~/x",
    ]
    (tmp_path / "r.yaml").write_text("trainer: {default_root_dir: ~/run, y: [~/z, ~]}\n")
    read = read_recipe(tmp_path / "r.yaml")["trainer"]
    assert read == {"default_root_dir": f"{tmp_path}/run", "y": [f"{tmp_path}/z", None]}
    assert resolve_pretrained("~/m") == tmp_path / "m"
    assert parse_location("~/d") == tmp_path / "d"


def test_a_sentence_is_utf_8_whatever_the_locale():
    typed = "grün".encode().decode("ascii", "surrogateescape")
    assert plain_arguments(["--text", typed, f"--infill_text={typed}", "--out", typed]) == [
        "--text",
        "grün",
        "--infill_text=grün",
        "--out",
        typed,
    ]
    latin = b"gr\xfcn".decode("ascii", "surrogateescape")
    assert plain_arguments(["--text", latin])[1] == latin


def test_a_terminal_without_the_characters_gets_them_as_escapes():
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "from lightning_omni.cli import _write_any_character as f; f(); print('\\u2192')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **locale}, capture_output=True, check=True
    )
    assert done.stdout == b"\\u2192\n"


def test_files_of_a_windows_editor_are_read(tmp_path):
    (tmp_path / "c.json").write_text('\ufeff{"a": 1}\r\n', encoding="utf-8")
    assert read_json_object(tmp_path / "c.json", remedy="") == {"a": 1}
    (tmp_path / "r.yaml").write_text("\ufefftrainer: {max_steps: 1}\r\n", encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == {"trainer": {"max_steps": 1}}
