"""Mistakes in what the user states: typing errors, wrong types, missing files, old checkpoints."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
import yaml
from fault import Fault, Outcome
from killed_saves import in_process

from lightning_omni.recipe import BASE, read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NOT_BY_A_VERB = ("base", "model", "strategy")
"""Folders of parts of recipes."""
TRACEBACK = "Traceback (most recent call last)"
KINDS = ("typing error", "wrong type", "missing file", "old checkpoint", "other world size")


def recipes_with_commands() -> list[tuple[Path, list[str]]]:
    """Return the recipes that a verb takes, each with the arguments of its `# Run:` line."""
    found = []
    for path in sorted(RECIPES.rglob("*.yaml")):
        lines = [x for x in path.read_text().splitlines() if x.startswith("# Run: lightning_omni")]
        if lines and path.relative_to(RECIPES).parts[0] not in NOT_BY_A_VERB:
            found.append((path, lines[0].split()[3:]))
    return found


def leaves(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the keys that lead to each value of a recipe that is no mapping."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, plain


def mistype(word: str, rng: Random) -> str:
    """Return a word with a letter lost, doubled, exchanged or swapped."""
    at = rng.randrange(max(1, len(word) - 1))
    changed = rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + rng.choice(LETTERS) + word[at + 1 :],
            word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        ]
    )
    return changed if changed not in ("", word) else word + "x"


def run(args: list[str], folder: Path) -> tuple[int, str]:
    """Run a command in a process of its own, and return its exit code and all that it said."""

    def work() -> None:
        os.environ.pop("LIGHTNING_OMNI_TRACEBACK", None)
        os.chdir(folder)
        warnings.simplefilter("ignore")
        logging.disable(logging.NOTSET)
        from lightning_omni.cli import main

        try:
            code: Any = main(args)
        except SystemExit as left:
            code = left.code
        (folder / "exit_code").write_text(str(code))

    (folder / "exit_code").unlink(missing_ok=True)
    log = folder / "log"
    log.with_name("log.0").unlink(missing_ok=True)
    (died,) = in_process(work, log)
    said = log.with_name("log.0").read_text(errors="replace")
    return (died or int((folder / "exit_code").read_text())), said


def copied_recipe(number: int, folder: Path) -> tuple[Path, list[str], dict[str, Any]]:
    """Return a copy of a recipe among all others, its command and what it holds itself."""
    path, command = recipes_with_commands()[number % len(recipes_with_commands())]
    shutil.copytree(RECIPES, folder / "recipes")
    copied = folder / "recipes" / path.relative_to(RECIPES)
    return copied, command, read_yaml(copied)


def judged(code: int, said: str, words: list[str], where: str) -> Outcome:
    """Return whether a mistake ended with 2 and a line that names one of the words."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    detail = f"{where}: exit {code}, {lines or said[-200:]}"
    if TRACEBACK in said:
        return Outcome(False, "a traceback", detail)
    if code != 2 or len(lines) != 1:
        return Outcome(False, f"exit {code}", detail)
    if "set LIGHTNING_OMNI_TRACEBACK" in said:
        return Outcome(False, "an internal message", detail)
    if not any(word in lines[0] for word in words):
        return Outcome(False, "not named", detail)
    return Outcome(True, "exit 2, named")


class Mistake(NamedTuple):
    """What was done, and words of which the message has to have one."""

    options: list[str]
    words: list[str]
    what: str


def mistype_key(plain: dict[str, Any], rng: Random) -> Mistake:
    """Mistype a key of a recipe."""
    where, _ = rng.choice([leaf for leaf in leaves(plain) if is_option(leaf[0])])
    depth = rng.choice([i for i, key in enumerate(where) if key != "init_args"])
    wrong = mistype(str(where[depth]), rng)
    parent = functools.reduce(lambda tree, key: tree[key], where[:depth], plain)
    parent[wrong] = parent.pop(where[depth])
    return Mistake([], [wrong], ".".join(map(str, (*where[:depth], wrong))))


def mistake_type(plain: dict[str, Any], rng: Random) -> Mistake | None:
    """Replace a number of a recipe by something else; None if it has none."""
    numbers = [w for w, v in leaves(plain) if isinstance(v, int | float) and is_option(w)]
    if not numbers:
        return None
    where = rng.choice(numbers)
    wrong = rng.choice(["much", [1, "x"], {"a": 1}, "1.5.2"])
    functools.reduce(lambda tree, key: tree[key], where[:-1], plain)[where[-1]] = wrong
    words = list(map(str, where[-2:]))  # of a table, its name and the value
    return Mistake([], words, f"{'.'.join(map(str, where))} = {wrong}")


def mistake_beside(kind: str, verb: str, folder: Path, rng: Random) -> Mistake | None:
    """Name a checkpoint that is none, or a number of processes; None if the verb takes none."""
    if verb != "fit":
        return None
    if kind == "other world size":
        name = rng.choice(["devices", "num_nodes"])
        value = rng.choice(["-3", "many", "0", "1.5"])
        return Mistake([f"--trainer.{name}", value], [f"trainer.{name}"], f"{name} {value}")
    content = rng.choice([b"", b"\x80\x02}q\x00.", rng.randbytes(1000)])
    (folder / "old.ckpt").write_bytes(content)
    return Mistake(["--ckpt_path", "old.ckpt"], ["old.ckpt"], "--ckpt_path")


def mistake(kind: str, number: int, folder: Path) -> Iterator[Outcome]:
    """Make a mistake in a recipe or beside it, and run its command."""
    rng = Random(number)
    path, command, plain = copied_recipe(number, folder)
    recipe, verb = str(path.relative_to(folder)), command[0]
    if kind == "typing error":
        made: Mistake | None = mistype_key(plain, rng)
    elif kind == "wrong type":
        made = mistake_type(plain, rng)
    elif kind == "missing file":
        made = Mistake([], ["nowhere"], "a file")
        if verb == "fit" and rng.random() < 0.5:
            plain[BASE] = "nowhere.yaml"
        else:
            recipe = "nowhere.yaml"
    elif "paper" in path.parts and kind == "old checkpoint":  # its model is built first
        made = None
    else:
        made = mistake_beside(kind, verb, folder, rng)
    if made is None:
        yield Outcome(True, "has no such setting")
        return
    if recipe != "nowhere.yaml":
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
    code, said = run([verb, "--config", recipe, *made.options], folder)
    yield judged(code, said, made.words, f"{recipe}, {made.what}")


def is_option(keys: tuple[Any, ...]) -> bool:
    """Whether keys lead to a setting, and not to what is named freely, as variants are."""
    free = {BASE, "variants", "configs", "models", "galleries"}
    return bool(keys) and not free & set(keys)


# changes on resume


@functools.cache
def trained_place() -> Path:
    """Return a folder with smoke data, tokenizers and a run of the joint model of four steps."""
    folder = Path(tempfile.mkdtemp(prefix="fault-place-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    recipes = [str(RECIPES / f"debug/{name}_tokenizer.yaml") for name in ("image", "speech")]
    for command in (
        ["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "c"],
        *(["fit", "--config", recipe] for recipe in recipes),
        [*JOINT, "--trainer.max_steps", "4"],
    ):
        code, said = run(command, folder)
        assert code == 0, said
    return folder


JOINT = [
    *("fit", "--config", str(RECIPES / "debug/stage3.yaml"), "--trainer.default_root_dir", "run"),
    *("--run_defaults", "[checkpoints,record]", "--trainer.logger", "false"),
    *("--trainer.callbacks", '[{"class_path": "lightning_omni.callbacks.ema.EMA"}]'),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu"),
]
MUON = "lightning_omni.optim.muon.MuonAdamW"
REFUSED, SAID = "refused with the difference", "goes on, the difference is said"
CHANGES: tuple[tuple[list[str], str, str], ...] = (
    (["--model.optimizer.lr", "0.5"], SAID, "model.optimizer.lr 0.5 (checkpoint: 0.001)"),
    (["--model.weight_decay", "0.5"], SAID, "model.weight_decay 0.5 (checkpoint: 0.01)"),
    (["--model.total_steps", "60"], SAID, "model.total_steps 60 (checkpoint: 6)"),
    (["--data.rows", "4"], SAID, "data.rows 4 (checkpoint: 2)"),
    (["--data.condition_dropout", "0.5"], SAID, "data.condition_dropout 0.5 (checkpoint: 0.1)"),
    (["--data.seed", "1"], REFUSED, "data.seed"),
    (["--data.tasks", '{"tqa": 1}'], REFUSED, "data.tasks"),
    (["--data.lanes", "32"], REFUSED, "data.lanes"),
    (["--model.optimizer", MUON], REFUSED, f"{MUON} (checkpoint: torch.optim.AdamW)"),
    (["--trainer.callbacks", "null"], SAID, "EMA"),
    (["--model.backbone.ffn_dim", "96"], REFUSED, "backbone.ffn_dim 96 (checkpoint: 64)"),
    (["--model.backbone.rope_theta", "5e4"], REFUSED, "rope_theta 50000.0 (checkpoint: 10000.0)"),
    (["--data.special_tokens", "released"], REFUSED, "data.special_tokens"),
)


def changed_on_resume(number: int, folder: Path) -> Iterator[Outcome]:
    """Go on with another setting than the checkpoint's."""
    place = trained_place()
    for name in ("data", "runs"):
        (folder / name).symlink_to(place / name)
    shutil.copytree(place / "run", folder / "run")
    first = folder / "run/config.yaml"
    before = first.read_bytes() if first.is_file() else b""
    change, wanted, words = CHANGES[number % len(CHANGES)]
    code, said = run([*JOINT, "--trainer.max_steps", "6", "--ckpt_path", "last", *change], folder)
    where = f"{' '.join(change)}: exit {code}: {said[-400:]}"
    if wanted == REFUSED:
        outcome = judged(code, said, [words], " ".join(change))
        yield outcome._replace(what=REFUSED) if outcome.is_right else outcome
        return
    saved = folder / "run/checkpoints/last.ckpt"
    group = torch.load(saved)["optimizer_states"][0]["param_groups"][0]
    if code or words not in said or TRACEBACK in said:
        yield Outcome(False, "not said", where)
    elif "lr" in change[0] and group["initial_lr"] != 0.5:
        yield Outcome(False, "another rate", f"{where}: {group}")
    elif "weight_decay" in change[0] and group["weight_decay"] != 0.5:
        yield Outcome(False, "another decay", f"{where}: {group}")
    elif before and first.read_bytes() != before:
        yield Outcome(False, "the first recipe is overwritten", where)
    else:
        yield Outcome(True, SAID)


def _faults() -> Iterator[Fault]:
    count = len(recipes_with_commands())
    for kind in KINDS:
        times = {"typing error": 4, "wrong type": 3}.get(kind, 1)
        yield Fault(
            f"{kind} in each recipe" if times > 1 else f"{kind} with each recipe",
            count * times,
            partial(mistake, kind),
            fast_calls=2 if times > 1 else 1,
        )
    yield Fault(
        "resumed with another setting than the checkpoint's",
        len(CHANGES),
        changed_on_resume,
        fast_calls=0,
    )


FAULTS: tuple[Fault, ...] = tuple(_faults())
