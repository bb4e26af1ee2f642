"""The command line: LightningCLI's verbs, and generate, evaluate, report and prep-data."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_omni.errors import OmniError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

TRAINER_VERBS = ("fit", "validate", "test", "predict")
FUNCTION_VERBS = {
    "generate": ("lightning_omni.inference.command", "generate"),
    "evaluate": ("lightning_omni.evaluation.run", "evaluate"),
    "evaluate-tokenizers": ("lightning_omni.evaluation.tokenizer_run", "evaluate_tokenizers"),
    "shrink": ("lightning_omni.inference.shrink", "shrink"),
    "report": ("lightning_omni.report.build", "build_report"),
    "bench": ("lightning_omni.evaluation.bench", "bench"),
}
CHECKPOINT_WORDS = ("last", "best", "hpc", "registry")
VERBS = (*TRAINER_VERBS, *FUNCTION_VERBS, "prep-data")
_MAX_MESSAGE = 700
_MAX_ECHO = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; mistakes of the user are one line and code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    try:
        return _run(args[0], args)
    except (OmniError, ValueError) as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        sys.stderr.write(f"error: {mistake}\n")
        return 2


def _mistake(error: BaseException | None) -> OmniError | None:
    """The user's mistake behind an error; a parser wraps those of constructors in its own."""
    while error is not None and not isinstance(error, OmniError):
        error = error.__cause__ or error.__context__
    return error


def _run(verb: str, args: list[str]) -> int:
    if verb in TRAINER_VERBS:
        build_cli(args)
    elif verb in FUNCTION_VERBS:
        _call(verb, args[1:])
    elif verb == "prep-data":
        from data_prep.__main__ import main as prep_data

        return prep_data(args[1:])
    else:
        raise OmniError(f"unknown verb '{verb}'; choose one of {', '.join(VERBS)}")
    return 0


def _usage() -> str:
    return (
        "usage: lightning_omni VERB [options]\n\n"
        f"verbs: {', '.join(VERBS)}\n\n"
        "`lightning_omni VERB --help` lists a verb's options.\n"
    )


def _call(verb: str, args: list[str]) -> None:
    """A verb that is a typed function: its signature is its options."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Reports mistakes as `OmniError`."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            """Turn a parser's message into one line."""
            raise OmniError(one_line(message))

    module, name = FUNCTION_VERBS[verb]
    function = getattr(importlib.import_module(module), name)
    parser = Parser(prog=f"lightning_omni {verb}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the options")
    parser.add_function_arguments(function, fail_untyped=True)
    options = parser.parse_args(args)
    options.pop("config", None)
    function(**parser.instantiate_classes(options).as_dict())


def build_cli(args: list[str], *, run: bool = True) -> LightningCLI:
    """Parse a recipe and, if `run`, execute its verb; else only build the objects.

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

        def before_instantiate_classes(self) -> None:
            """Refuse a checkpoint that is not there before anything is built."""
            path = self._get(self.config, "ckpt_path")
            if path and path not in CHECKPOINT_WORDS and not Path(path).is_file():
                raise OmniError(f"no checkpoint at '{path}'; give a .ckpt file, last or best")

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("data.init_args.vocab", "model.init_args.vocab")

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


def one_line(message: str) -> str:
    """Fold a parser's report into one line, without the echo of the whole value."""
    kept = [line.strip() for line in message.splitlines() if line.strip()]
    kept = [
        line
        for line in kept
        if not line.startswith(("Subtypes:", "Given value type:"))
        and not (line.startswith("Given value") and len(line) > _MAX_ECHO)
    ]
    text = " ".join(kept)
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 3] + "..."
