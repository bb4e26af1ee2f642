"""Files of options that belong to another verb."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from lightning_omni.errors import OmniError

_OF_FIT = {"trainer", "model", "data"}


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
    for path in _named(args):
        try:
            plain = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        names = {str(name).partition(".")[0] for name in plain} if isinstance(plain, dict) else ()
        if strange := sorted(set(names) - set(known)):
            kind = "a recipe of the verb `fit`" if set(names) >= _OF_FIT else "of another verb"
            raise OmniError(
                f"'{path}' seems to be {kind}: `{verb}` takes no {', '.join(strange)}; it takes "
                f"{', '.join(known)}"
            )


def _named(args: Sequence[str]) -> list[Path]:
    """The files behind `--config`, as `--config X` or `--config=X`."""
    apart = [after for arg, after in pairwise(args) if arg == "--config"]
    joined = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    return [Path(name) for name in (*apart, *joined)]
