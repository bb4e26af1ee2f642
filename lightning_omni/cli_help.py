"""Verbs of the command line, their help and shell completion, without importing what they run."""

from __future__ import annotations

import ast
import functools
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from lightning_omni.signatures import Option, find_source_module, read_signature

PLAN, PREP_DATA, EXPORT, FIT = "plan", "prep-data", "export", "fit"
INSPECT, ENCODE, VERIFY_DATA = "inspect", "encode", "verify-data"
TOPOLOGY = "verify_topology"


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command line.

    Attributes:
        group: heading under which `lightning_omni --help` lists it.
        summary: one sentence.
        module: module of the function that it calls; empty for verbs of the trainer.
        function: name of that function.
    """

    group: str
    summary: str
    module: str = ""
    function: str = ""


_OURS = "lightning_omni."
VERBS = {
    FIT: Verb("train", "Train a model or a tokenizer as a recipe says."),
    "validate": Verb("train", "Measure the loss of a checkpoint on the validation split."),
    "test": Verb("train", "Measure the loss and the NELBO of a checkpoint on the test split."),
    "generate": Verb(
        "generate",
        "Answer a request, or fill in masked parts of a text, picture or recording.",
        f"{_OURS}generation.command",
        "generate",
    ),
    "evaluate": Verb(
        "measure",
        "Score an exported model on the nine tasks.",
        f"{_OURS}evaluation.command",
        "evaluate",
    ),
    "evaluate-infilling": Verb(
        "measure",
        "Score how a model fills in masked parts of true answers.",
        f"{_OURS}evaluation.infilling",
        "evaluate_infilling",
    ),
    "evaluate-tokenizers": Verb(
        "measure",
        "Score how tokenizers reconstruct pictures and speech.",
        f"{_OURS}evaluation.tokenizers",
        "evaluate_tokenizers",
    ),
    "calibrate": Verb(
        "measure",
        "Compare sampling configurations and choose the presets of a model.",
        f"{_OURS}studies.calibrate",
        "calibrate",
    ),
    "experiment": Verb(
        "measure",
        "Train and compare variants of a recipe with several seeds.",
        f"{_OURS}studies.experiments.command",
        "experiment",
    ),
    PREP_DATA: Verb(
        "data", "Build a data folder from a preset or from your own corpus.", "data_prep.__main__"
    ),
    ENCODE: Verb(
        "data",
        "Turn a data folder's pictures and sound into codes, shard by shard.",
        f"{_OURS}data.encoding.options",
        "EncodeOptions",
    ),
    INSPECT: Verb(
        "data",
        "Show what a data folder holds and what a recipe reads of it; write a page of samples.",
        f"{_OURS}studies.inspect.command",
        "inspect_data",
    ),
    VERIFY_DATA: Verb(
        "data",
        "Read every shard of a data folder and its codes, and report all that are damaged.",
        f"{_OURS}data.verify_data",
        "verify_data",
    ),
    "import": Verb(
        "share",
        "Convert a published checkpoint.",
        f"{_OURS}interop.command",
        "import_checkpoint",
    ),
    EXPORT: Verb(
        "share",
        "Write a model as a folder to share, in our format or Qwen2's, optionally in 16 bits.",
        f"{_OURS}interop.export",
        "export_model",
    ),
    PLAN: Verb(
        "tools",
        "Estimate memory and time of a recipe on given GPUs.",
        f"{_OURS}studies.memory_plan.settings",
        "PlanOptions",
    ),
    "bench": Verb(
        "tools",
        "Time training, sampling and data reading against other libraries.",
        f"{_OURS}studies.bench.command",
        "bench",
    ),
    "report": Verb(
        "tools",
        "Write a page with scores, curves and samples of a run.",
        f"{_OURS}studies.report.build_report",
        "build_report",
    ),
}
TRAINER_VERBS = tuple(name for name, verb in VERBS.items() if verb.group == "train")
RECIPE_VERBS = (*TRAINER_VERBS, PLAN, ENCODE)
FUNCTION_VERBS = tuple(n for n, verb in VERBS.items() if verb.function and n not in RECIPE_VERBS)
_TITLES = {
    "train": "Train",
    "generate": "Generate",
    "measure": "Measure",
    "data": "Prepare data",
    "share": "Share",
    "tools": "Tools",
}
_CONFIG = Option("config", "FILE", "", "YAML file with options; may be repeated.")
_PRINT = Option("print_config", "", "", "Print all options as YAML and exit.")
_RECIPE = (
    Option("config", "FILE", "", "Recipe; may be repeated, a later one overrides the earlier."),
    _PRINT,
    Option("seed_everything", "INT", "", "Seed of initial weights and of all global randomness."),
    Option("ckpt_path", "PATH|last|best", "", "Checkpoint to resume from or to measure."),
    Option("model", "CLASS", "", "Module to train; --model.ARGUMENT VALUE changes an argument."),
    Option("data", "CLASS", "", "Data to train on; --data.ARGUMENT VALUE changes an argument."),
    Option(
        "run_defaults",
        "[NAME, ...]",
        "",
        "What every run has by default: logger, checkpoints, progress, throughput, health, record, "
        "reconstructions and export; a list keeps only those that it names. They write below "
        "trainer.default_root_dir. A callback in a recipe replaces the default of its class.",
    ),
)
_VERIFY = Option(
    TOPOLOGY,
    "STEPS",
    "",
    "Instead of a run: train this many steps on one device and on the recipe's devices, compare "
    "tokens, masks and losses, and exit with 1 if they differ.",
)
_NAME_WIDTH = 24


def usage() -> str:
    """Return the help of `lightning_omni` without a verb."""
    lines = ["usage: lightning_omni VERB [options]"]
    for group, title in _TITLES.items():
        lines += ["", f"{title}:"]
        lines += [f"  {n:<21}{v.summary}" for n, v in VERBS.items() if v.group == group]
    lines += [
        "",
        "`lightning_omni VERB --help` lists the options of a verb.",
        'Completion: eval "$(lightning_omni --print_completion bash)", or zsh, in your shell\'s '
        "start file.",
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def verb_options(verb: str) -> tuple[Option, ...]:
    """Return the options of a verb."""
    if verb == PREP_DATA:
        return _argparse_options(VERBS[verb].module)
    own = (
        read_signature(VERBS[verb].module, VERBS[verb].function).options
        if VERBS[verb].module
        else ()
    )
    if verb in FUNCTION_VERBS:
        return (*own, _CONFIG, _PRINT)
    trainer = read_signature("lightning.pytorch.trainer.trainer", "Trainer").options
    settings = [
        Option(f"trainer.{o.name}", o.kind, "", o.note.partition(". ")[0].rstrip(".") + ".")
        for o in trainer
    ]
    verify = (_VERIFY,) if verb == FIT else ()
    return (*own, *_RECIPE, *verify, *settings)


def verb_help(verb: str) -> str:
    """Return the help of a verb."""
    options = verb_options(verb)
    required = [option for option in options if option.default is None]
    rest = [option for option in options if option.default is not None]
    words = " ".join(f"--{option.name} {option.kind}" for option in required)
    start = "--config recipes/stage1.yaml" if verb in RECIPE_VERBS else words
    words = " ".join(("lightning_omni", verb, *((start,) if start else ()), "[options]"))
    lines = [f"usage: {words}", "", VERBS[verb].summary]
    for title, shown in (("required", required), ("options", rest)):
        if shown:
            lines += [
                "",
                f"{title}:",
                *(line for option in shown for line in _option_lines(option)),
            ]
    if verb == PREP_DATA:
        shown_layouts = (
            _option_lines(Option(name, "", "", note)) for name, note in corpus_layouts().items()
        )
        lines += ["", "layouts of --corpus:"]
        lines += [line.replace("--", "", 1) for layout in shown_layouts for line in layout]
    if any("CLASS" in option.kind for option in options):
        lines += [
            "",
            "An option that takes a CLASS takes its name or dotted path; its arguments follow as "
            "--OPTION.ARGUMENT VALUE, and --OPTION.help CLASS lists them.",
        ]
    return "\n".join(lines) + "\n"


def corpus_layouts() -> dict[str, str]:
    """Return the first sentence of each layout of a corpus by its name, without importing it."""
    import ast
    import importlib.util

    package = importlib.util.find_spec("data_prep")
    folders = package.submodule_search_locations if package else None
    found = {}
    for path in sorted(Path(folders[0], "corpora").glob("*.py")) if folders else ():
        tree = ast.parse(path.read_text("utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "read" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return found


def _option_lines(option: Option) -> list[str]:
    head = f"  --{option.name} {option.kind}".rstrip()
    not_shown = (None, "", "None")
    shown = f" (default: {option.default})" if option.default not in not_shown else ""
    width = min(shutil.get_terminal_size().columns, 100)
    note = textwrap.wrap(option.note + shown, max(width - _NAME_WIDTH, 30))
    if len(head) < _NAME_WIDTH - 1 and note:
        head, note = f"{head:<{_NAME_WIDTH}}{note[0]}", note[1:]
    return [head, *(" " * _NAME_WIDTH + line for line in note)]


def _argparse_options(module: str) -> tuple[Option, ...]:
    """Return the options that a module gives to argparse."""
    home, found = find_source_module(module), []
    for node in ast.walk(home.tree) if home else ():
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
            given = {k.arg: k.value for k in node.keywords}
            name = ast.literal_eval(node.args[0]).lstrip("-")
            kind = "" if "action" in given else _metavar(given.get("type"))
            kind += " ..." if "nargs" in given else ""
            note = str(ast.literal_eval(given["help"])) if "help" in given else ""
            found.append(Option(name, kind, "", note))
    return tuple(found)


def _metavar(converter: ast.expr | None) -> str:
    """Return the word for the value of an option, given the function that converts it."""
    if converter is None:
        return "NAME"
    return {"int": "INT", "float": "FLOAT"}.get(ast.unparse(converter), "PATH")
