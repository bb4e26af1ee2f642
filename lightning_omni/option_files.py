"""Files of options that belong to another verb."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lightning_omni.errors import OmniError

_OF_FIT = {"trainer", "model", "data"}
_BESIDE = {"seed_everything", "ckpt_path", "weights_only", "verbose"}


def check_option_files(verb: str, args: Sequence[str], known: Collection[str]) -> None:
    """Refuse a `--config` that holds what the verb does not take, before its values are parsed.

    What cannot be read is left to the parser.

    Args:
        verb: Name of the verb.
        args: Its arguments.
        known: Names of its options.

    Raises:
        OmniError: If so.
    """
    for path, plain in _read(args):
        names = {str(name).partition(".")[0] for name in plain}
        if strange := sorted(names - set(known)):
            kind = "a recipe of the verb `fit`" if names >= _OF_FIT else "of another verb"
            raise OmniError(
                f"'{path}' seems to be {kind}: `{verb}` takes no {', '.join(strange)}; it takes "
                f"{', '.join(known)}"
            )


def check_recipes(verb: str, args: Sequence[str]) -> None:
    """Refuse a `--config` of the trainer's verbs that is no recipe, nor a part of one.

    Raises:
        OmniError: If so.
    """
    for path, plain in _read(args):
        has_section = any(isinstance(plain.get(name), dict) for name in _OF_FIT)
        strange = sorted(set(map(str, plain)) - _OF_FIT - _BESIDE)
        if strange and not has_section:
            raise OmniError(
                f"'{path}' is no recipe: it has {', '.join(strange)} and no section trainer, model "
                f"or data; `{verb}` takes one such as recipes/stage3.yaml"
            )


def _read(args: Sequence[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files of options with what they hold."""
    for path in _named(args):
        try:
            plain = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(plain, dict):
            yield path, plain


def _named(args: Sequence[str]) -> list[Path]:
    """The files behind `--config`, as `--config X` or `--config=X`."""
    apart = [after for arg, after in pairwise(args) if arg == "--config"]
    joined = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    return [Path(name) for name in (*apart, *joined)]
