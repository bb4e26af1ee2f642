from pathlib import Path

import pytest

from lightning_omni.cli import VERBS, fold_message, main

RECIPES = Path(__file__).parents[1] / "recipes"
STAGE, CALIBRATE = str(RECIPES / "stage3.yaml"), str(RECIPES / "eval" / "calibrate.yaml")


def test_without_a_verb_the_verbs_are_listed(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sing"], "unknown verb 'sing'; choose one of fit, validate"),
        (["generat"], "unknown verb 'generat' (did you mean 'generate'?); choose"),
        (["fit", "--trainer.max_step", "3"], "did you mean 'trainer.max_steps'?"),
        (["generate", "--task", "sing"], "unknown task 'sing'"),
        (["generate", "--task", "captions"], "did you mean 'caption'?"),
        (["generate", "--task", "t2i", "--model", "nowhere", "--text", "x"], "no joint model in"),
        (["generate", "--tusk", "t2i"], "did you mean 'task'?"),
        (["generate", "--task", "t2i", "--num_steps", "0"], "num_steps is 0"),
        (["generate", "--task", "t2i", "--temperature", "-1"], "temperature is -1"),
        (["generate", "--task", "tqa", "--response_length", "0"], "response_length is 0"),
        (["generate", "--task", "tqa", "--seed", str(2**63)], f"wanted 0 to {2**63 - 1}"),
        (["generate", "--task", "tqa", "--steps", "2", "--steps_per_token", "1"], "leave one out"),
        (["generate", "--task", "tqa", "--guidance_scale", "{}"], "guidance_scale: "),
        (["generate", "--task", "tqa", "--timestep_shift", "0"], "timestep_shift is 0"),
        (["generate", "--task", "tqa", "--text", "x", "--out", ""], "--out is '.'"),
        (["generate", "--task", "tqa", "--text", "x", "--model", ""], "no joint model in '.'"),
        (
            ["generate", "--task", "tqa", "--sampler.temperature", "1"],
            "sampler.temperature is given without sampler",
        ),
        (["fit", "--config", CALIBRATE], "calibrate.yaml' is not a recipe: it has configs"),
        (["generate", "--config", STAGE], "a recipe of the verb `fit`: `generate` takes no data"),
        (["experiment", "--config", STAGE], "`experiment` takes no data, model"),
        (["evaluate", f"--config={CALIBRATE}"], "`evaluate` takes no configs; it takes"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(args, words, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_a_path_with_a_nul_character_is_refused_by_a_sentence(tmp_path, capsys):
    assert main(["generate", "--task", "tqa", "--text", "a", "--out", "x\0y"]) == 2
    assert "holds a NUL character" in capsys.readouterr().err
    recipe = tmp_path / "x.yaml"
    base = RECIPES / "debug/stage3.yaml"
    recipe.write_text(f'base: {base}\ntrainer: {{default_root_dir: "a\\0b"}}\n')
    assert main(["fit", "--config", str(recipe)]) == 2
    assert "error: the name of a file or folder holds a NUL" in capsys.readouterr().err


def test_an_interrupted_command_says_so_without_a_traceback(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_omni.cli._run_verb", stopped)
    assert main(["generate"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_long_report_is_folded_and_cut():
    assert fold_message("a\n  b\nGiven value: " + "x" * 200) == "a b"
    assert len(fold_message("x" * 5000)) == 700
