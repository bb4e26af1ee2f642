"""Help and completion, which import none of the modules that a verb runs."""

import subprocess
import sys
import time

import pytest
from jsonargparse import ArgumentParser

from lightning_omni.cli import _import_verb_function, build_parser, main
from lightning_omni.cli_completion import completion_script
from lightning_omni.cli_help import FUNCTION_VERBS, VERBS, verb_help, verb_options

HEAVY = ("torch", "lightning", "jsonargparse", "numpy")


def test_help_lists_every_verb_once_with_a_sentence_in_its_group(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, verb in VERBS.items():
        (line,) = [x for x in lines if x.split() and x.split()[0] == name]
        assert line.endswith(verb.summary)
        assert verb.summary.endswith(".")


@pytest.mark.parametrize("verb", FUNCTION_VERBS)
def test_the_help_of_a_function_has_exactly_the_parser_s_options(verb):
    _, known = build_parser(verb)
    assert [o.name for o in verb_options(verb)] == [*known, "config", "print_config"]
    for option in verb_options(verb):
        assert option.note, option.name


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out == verb_help(verb)


@pytest.mark.parametrize("verb", FUNCTION_VERBS)
def test_a_default_is_shown_as_the_parser_would_read_it(verb):
    parser, _ = build_parser(verb)
    for option in verb_options(verb):
        if option.default not in (None, "", "None"):
            default = parser.get_default(option.name)
            shown = parser.parse_args([f"--{option.name}={option.default}"], _skip_validation=True)
            assert shown[option.name] == default, option


def test_the_trainer_s_options_are_those_of_lightning():
    from lightning.pytorch import Trainer

    parser = ArgumentParser(exit_on_error=False)
    known = parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    assert {o.name for o in verb_options("fit") if "." in o.name} == set(known)


def test_the_options_of_preparing_data_are_those_of_its_parser():
    from data_prep.__main__ import _make_parser

    options = {word for a in _make_parser()._actions for word in a.option_strings} - {
        "-h",
        "--help",
    }
    assert {f"--{o.name}" for o in verb_options("prep-data")} == options


@pytest.mark.parametrize("args", [["--help"], ["generate", "--help"], ["fit", "--help"]])
def test_help_is_quick_and_imports_nothing_heavy(args):
    code = (
        "import sys; from lightning_omni.cli import main; main(sys.argv[1:]); "
        f"sys.exit(bool(set({HEAVY}) & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *args], check=False, capture_output=True)
    assert done.returncode == 0
    assert time.perf_counter() - start < 5  # a bound for busy machines; alone it takes 0.1 s


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_verbs_and_options(shell, tmp_path):
    script = completion_script(shell)
    assert all(f"{verb})" in script for verb in VERBS)
    if shell == "zsh":
        return

    def offered(*words):
        line = " ".join(f"'{word}'" for word in ("lightning_omni", *words))
        run = (
            f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _lightning_omni; echo ${{COMPREPLY[*]}}"
        )
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{run}"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert offered("evaluate-") == ["evaluate-infilling", "evaluate-tokenizers"]
    assert offered("generate", "--ta") == ["--task"]


def test_an_unknown_shell_is_refused(capsys):
    assert main(["--print_completion", "tcsh"]) == 2
    assert "wanted one of bash, zsh" in capsys.readouterr().err


def test_every_function_is_found():
    assert all(callable(_import_verb_function(verb)) for verb in FUNCTION_VERBS)
