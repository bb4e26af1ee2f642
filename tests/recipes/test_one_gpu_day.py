"""The page of one GPU's day: every command, on small corpora in the published layouts."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from published_corpora import write_corpora, write_encodec, write_recordings
from published_qwen import TEXT, write_qwen
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep.__main__ import _make_parser
from lightning_omni.cli import build_cli, main
from lightning_omni.cli_help import VERBS
from lightning_omni.errors import OmniError
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.recipe import read_recipe
from lightning_omni.tokenizers.text import TextTokenizer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/one_gpu_one_day.md"
RECIPES = ROOT / "recipes/one_gpu"
SCRIPT = "CORPORA=/data/corpora bash recipes/one_gpu/data.sh"
STAGES = ("stage1", "stage1_from_nothing", "stage2", "stage3", "finetune")


def page_commands():
    """Every line of every block of commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert {language for language, _ in blocks} == {"bash"}
    return [line for _, block in blocks for line in block.splitlines() if line.strip()]


def script_commands(folder, corpora):
    """The commands of the script, run with a program that prints its arguments."""
    program = folder / "lightning_omni"
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word"; done; echo\n')
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CORPORA": str(corpora)}
    command = ["bash", str(RECIPES / "data.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.rstrip("\t").split("\t") for line in done.stdout.splitlines()]


def option(args, name):
    """The value behind an option."""
    return args[args.index(name) + 1]


def test_every_command_is_ours_and_every_file_of_the_page_is_there():
    commands = page_commands()
    assert commands.count(SCRIPT) == 1
    for command in commands:
        if command == SCRIPT:
            continue
        program, verb, *args = shlex.split(command)
        assert (program, verb in VERBS) == ("lightning_omni", True), command
        if "--config" in args:
            assert (ROOT / option(args, "--config")).is_file(), command
    fitted = {option(shlex.split(c), "--config") for c in commands if " fit " in c}
    assert fitted == {str(path.relative_to(ROOT)) for path in RECIPES.glob("*.yaml")}


def test_the_script_prepares_every_task_of_the_stages_in_every_split(tmp_path):
    corpora = write_corpora(tmp_path / "corpora")
    made = {}
    *commands, speak = script_commands(tmp_path, corpora)
    for verb, *words in commands:
        assert verb == "prep-data"
        args = _make_parser().parse_args(words)
        for source in args.source:
            expanded = re.sub(r"\{(\d+)\.\.\d+\}", r"\1", source)
            assert Path(expanded).exists(), source
            assert made.setdefault(source, args.split) == args.split, "a file is in one split"
    assert set(made.values()) == {"train", "val", "test_iid"}
    assert speak[:3] == ["prep-data", "--speak", "data/one_gpu"]


def test_the_script_names_what_it_lacks(tmp_path):
    command = ["bash", str(RECIPES / "data.sh")]
    path = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "set it to the folder of the downloads" in done.stderr


def test_each_stage_reads_what_the_one_before_makes_and_the_vocabulary_is_the_tokenizers():
    roots = {p.stem: read_recipe(p)["trainer"]["default_root_dir"] for p in RECIPES.glob("*.yaml")}
    made = {name: f"{root}/export" for name, root in roots.items()}
    model = {name: read_recipe(RECIPES / f"{name}.yaml")["model"]["init_args"] for name in STAGES}
    data = {name: read_recipe(RECIPES / f"{name}.yaml")["data"]["init_args"] for name in STAGES}
    assert model["stage1"]["init_from"] == "checkpoints/qwen2.5-0.5b"
    assert model["stage1_from_nothing"]["init_from"] is None
    assert model["stage2"]["init_from"] == [made["stage1"], made["stage1_from_nothing"]]
    assert model["stage3"]["init_from"] == made["stage2"]
    assert model["finetune"]["init_from"] == made["stage3"]
    for name in STAGES:
        assert (
            model[name]["total_steps"]
            == read_recipe(RECIPES / f"{name}.yaml")["trainer"]["max_steps"]
        )
        tokenizers = [data[name][f"{kind}_tokenizer"] for kind in ("image", "speech")]
        assert tokenizers == [made["image_tokenizer"], made["speech_tokenizer"]]
    sizes = {}
    for kind in ("image", "speech"):
        with torch.device("meta"):
            args = ["--config", str(RECIPES / f"{kind}_tokenizer.yaml")]
            tokenizer = build_cli(args, run=False, with_trainer=False).model.tokenizer
        sizes[kind] = tokenizer.num_codes
        if kind == "speech":
            assert tokenizer.frame_rate * tokenizer.num_codebooks == 50
        else:
            assert (tokenizer.image_size, tokenizer.columns) == (256, 16)
    assert data["stage1"]["vocab"] == {"text": 151_643, **sizes}


SHORT = {
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 1,
    "trainer.log_every_n_steps": 1,
    "data.num_workers": 0,
    "model.warmup_steps": 1,
    "model.total_steps": 2,
}
BACKBONE = {"dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48}
TEXT_IDS = {
    "data.text_ranks": "checkpoints/qwen2.5-0.5b/text.tiktoken",
    "data.vocab": {"text": TEXT, "speech": 2048, "image": 8192},
}
"""The ids of a small tokenizer, in place of Qwen's 151,643."""
NARROW = {
    "stage": {
        **SHORT,
        **TEXT_IDS,
        **{f"model.backbone.init_args.{name}": size for name, size in BACKBONE.items()},
        "model.backbone.init_args.rope_theta": 5e4,
        "data.rows": 1,
        "data.row_length": 1024,
        "data.val_samples": 1,
    },
    "image_tokenizer": {
        **SHORT,
        "trainer.max_steps": 4,
        "data.batch_size": 2,
        "model.tokenizer.channels": 8,
        "model.tokenizer.groups": 2,
        "model.tokenizer.encoder_blocks": [1, 1, 1, 1],
        "model.tokenizer.decoder_blocks": [1, 1, 1, 1],
        "model.discriminator.channels": 4,
        "model.adversarial_start": 0,
    },
    "speech_tokenizer": {
        **SHORT,
        "trainer.max_steps": 4,
        "data.crop_s": 0.64,
        "data.batch_size": 4,
        "data.val_batches": 1,
        "model.tokenizer.encoder.width": 32,
        "model.tokenizer.encoder.blocks": [1, 1, 1],
        "model.tokenizer.decoder.width": 32,
        "model.tokenizer.decoder.blocks": [1, 1, 1, 1],
        "model.continuous_steps": 1,
        "model.kmeans_vectors": 64,
    },
}
"""Options that make the networks of a recipe narrow and its run short; codes stay."""
FEW = {"limit": 2, "speech_limit": 1}
SMALLER = {
    "encode": {"processes": 1, **TEXT_IDS},
    "prep-data": {"processes": 1},
    "evaluate": {**FEW, "gallery": 1, "sampling.num_steps": 2},
    "evaluate-tokenizers": FEW,
    "generate": {"num_steps": 2},
}
"""Options of verbs without a network of their own."""


def smaller(verb, args):
    """The arguments of a command, and options that make it small."""
    recipe = Path(option(args, "--config")) if "--config" in args else None
    changes = dict(SMALLER.get(verb, {}))
    if verb in ("fit", "test") and recipe is not None:
        changes |= NARROW.get(recipe.stem, NARROW["stage"])
    if verb == "generate" and option(args, "--task") in ("tts", "svqa"):
        changes["response_length"] = 40
    plain = {n: v if isinstance(v, str) else json.dumps(v) for n, v in changes.items()}
    given = [word for name, value in plain.items() for word in (f"--{name}", value)]
    if "--config" in args:
        place = args.index("--config") + 1
        args = [*args[:place], str(ROOT / args[place]), *args[place + 1 :]]
    kept = list(args)
    for name in FEW if verb == "evaluate-tokenizers" else ():
        at = kept.index(f"--{name}")
        del kept[at : at + 2]
    return [verb, *kept, *given]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A published next-token model, and what it is imported to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    published = folder / "published"
    published.mkdir()
    write_qwen(published, "qwen2")
    given = ["--input", str(published), "--output", str(folder / "imported")]
    assert main(["import", "--from", "qwen2", *given]) == 0
    return folder


OTHER_IDS = json.dumps({"text": TEXT + 1, "speech": 2048, "image": 8192})
MISTAKES = {
    "gone": ([], r"no weights of the stage before in '.*gone'"),
    "published": ([], "holds a published checkpoint; run lightning_omni import"),
    "imported": (["--model.backbone.init_args.qkv_bias", "false"], "holds another architecture"),
    "imported/": (["--data.vocab", OTHER_IDS], f"pad_token_id {TEXT}"),
}
"""Folder that stage 1 is told to start from, options, and what is said."""


@pytest.mark.parametrize("folder", MISTAKES)
def test_a_start_that_cannot_be_is_named(folder, checkpoints):
    changes, said = MISTAKES[folder]
    options = dict(NARROW["stage"])
    ranks = str(checkpoints / "imported/text.tiktoken")
    options |= {"data.text_ranks": ranks, "model.init_from": str(checkpoints / folder)}
    plain = {n: v if isinstance(v, str) else json.dumps(v) for n, v in options.items()}
    words = [word for name, value in plain.items() for word in (f"--{name}", value)]
    recipe = ["--config", str(RECIPES / "stage1.yaml")]
    module = build_cli([*recipe, *words, *changes], run=False, with_trainer=False).model
    with pytest.raises(OmniError, match=said):
        load_initial_weights(module.backbone, Path(module.init_from), module.vocab, seed=1)


def test_a_file_of_text_ids_that_is_not_there_is_named(checkpoints):
    with pytest.raises(OmniError, match=r"no text ranks at '.*gone\.tiktoken'"):
        TextTokenizer(checkpoints / "gone.tiktoken")


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """A folder with all that is downloaded."""
    folder = tmp_path_factory.mktemp("day")
    write_corpora(folder / "corpora")
    write_recordings(folder / "recordings")
    (folder / "checkpoints/Qwen2.5-0.5B").mkdir(parents=True)
    write_qwen(folder / "checkpoints/Qwen2.5-0.5B", "qwen2")
    write_encodec(folder / "checkpoints/encodec_24khz")
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(day, monkeypatch):
    monkeypatch.chdir(day)
    done = []
    for command in page_commands():
        if command == SCRIPT:
            for verb, *args in script_commands(day, day / "corpora"):
                assert main(smaller(verb, args)) == 0, (verb, args)
        else:
            _, verb, *args = shlex.split(command)
            assert main(smaller(verb, args)) == 0, command
        done.append(command)
    assert done == page_commands()
    for name in ("image_tokenizer", "speech_tokenizer", *STAGES):
        assert (day / "runs/one_gpu" / name / "export/model.safetensors").is_file()
    for name in ("bicycle.png", "question.wav", "heard.txt", "answer.wav", "answer.txt"):
        assert (day / name).is_file()
    assert named_tags() - logged_tags(day / "runs/one_gpu") == {"perf/mfu"}, "a CPU has no peak"


def named_tags():
    """Tags of TensorBoard that the page names; a star stands for any task."""
    families = "train|val|tokenizer|perf|optim|samples"
    return set(re.findall(rf"`((?:{families})(?:_\w+)?/[\w/]+)`", PAGE.read_text()))


def logged_tags(folder):
    """Tags of all runs below a folder."""
    tags = set()
    for path in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(path), size_guidance={"tensors": 1, "images": 1, "audio": 1})
        for kind in ("scalars", "tensors", "images", "audio"):
            tags.update(events.Reload().Tags()[kind])
    return {tag.removesuffix("/text_summary") for tag in tags}
