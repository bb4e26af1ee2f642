"""Options of the command line: old names, and files of options."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError, did_you_mean
from lightning_omni.files import expand_home
from lightning_omni.old_names import (
    REMOVED_OPTIONS,
    SETTINGS,
    is_ignored_setting,
    log_once,
    refuse_removed_option,
    rename_arguments,
    rename_class,
    rename_class_paths,
    rename_option,
    unwrap_modality_key,
)
from lightning_omni.recipe import BASE, read_recipe, read_yaml

log = logging.getLogger(__name__)

ALIASES = {
    "from": "kind",  # a word of Python's own cannot name an argument
    **SETTINGS,
    "steps": "num_steps",
    "guidance": "guidance_scale",
    "times": "intervals",
    "draft_text": "infill_text",
    "draft_image": "infill_image",
    "draft_audio": "infill_audio",
    "ways": "configs",
    "arms": "variants",
    "bound": "nelbo",
}
"""Old name of an option: its new name; used where a verb has the new one and not the old one."""
_SILENT = ("from",)  # this alias stays
_SETTINGS = "sampling"
"""Option that holds settings of generation, whose names may be old too."""
_NAMED_SETTINGS = "configs"
"""Option that holds settings of generation by name."""
OLD_VERBS = {
    "shrink": (("export", "--format", "safetensors", "--dtype", "float16"), {"out": "output"}),
}
"""Old verb: the verb with the options that take its place, and new names of its own options."""
_CONFIG = ("--config", "-c")
_SENTENCES = ("--text", "--infill_text")
_SECTIONS = {"trainer", "model", "data"}
_BESIDE = {"seed_everything", "ckpt_path", "weights_only", "verbose", "run_defaults"}


def rename_verb(args: Sequence[str]) -> list[str]:
    """Return arguments with an old verb replaced by what does its work now."""
    if not args or args[0] not in OLD_VERBS:
        return list(args)
    instead, options = OLD_VERBS[args[0]]
    log.warning("the verb '%s' is now '%s'", args[0], " ".join(instead))
    renamed = [_rename_argument(arg, lambda name: options.get(name, name)) for arg in args[1:]]
    return [*instead, *renamed]


def rename_options(args: Sequence[str], known: Collection[str]) -> list[str]:
    """Return arguments with old names of options and classes replaced by the new ones.

    Args:
        args: arguments behind the verb.
        known: options of the verb.
    """
    return [
        rename_option(_rename_argument(arg, lambda name: new_option_name(name, known)))
        for arg in args
    ]


def new_option_name(name: str, known: Collection[str]) -> str:
    """Return the new name of an option; an option without one keeps its own.

    Args:
        name: name without dashes; of `sampling.steps`, the last part may be old.
        known: options of the verb.

    Raises:
        OmniError: If the verb no longer has the option.
    """
    parent, dot, last = name.rpartition(".")
    new = f"{parent}{dot}{ALIASES.get(last, last)}"
    is_setting = parent == _SETTINGS and parent in known
    if name in known:
        return name
    if last in REMOVED_OPTIONS and (is_setting or "guidance_scale" in known):
        refuse_removed_option(last)
    if not (is_setting or new in known):
        return name
    if name != new and name not in _SILENT:
        log_once(logging.WARNING, "the option '%s' is now '%s'", name, new)
    return new


def _rename_settings(plain: Any, path: str = "") -> Any:
    """Return a value in which settings of generation, at any depth, have their new names.

    Raises:
        OmniError: If a setting no longer exists; names the path that leads to it.
    """
    if not isinstance(plain, dict):
        return plain
    renamed = {n: _rename_settings(value, f"{path}{n}.") for n, value in plain.items()}
    if isinstance(named := renamed.get(_NAMED_SETTINGS), dict):
        renamed[_NAMED_SETTINGS] = {
            n: _rename_fields(value, f"{path}{_NAMED_SETTINGS}.{n}") for n, value in named.items()
        }
    if _SETTINGS in renamed:
        renamed[_SETTINGS] = _rename_fields(renamed[_SETTINGS], f"{path}{_SETTINGS}")
    return renamed


def _rename_fields(plain: Any, path: str) -> Any:
    if not isinstance(plain, dict):
        return plain
    known = [_SETTINGS, *ALIASES.values()]
    kept = {str(n): value for n, value in plain.items() if not is_ignored_setting(n, value)}
    try:
        renamed = {new_option_name(name, known): value for name, value in kept.items()}
        return {name: unwrap_modality_key(name, value) for name, value in renamed.items()}
    except OmniError as error:
        raise OmniError(f"{path}: {error}") from error


def _rename_argument(arg: str, rename: Callable[[str], str]) -> str:
    """Return `--name`, `--name=value` or a value, names of options and classes replaced."""
    if not arg.startswith("--"):
        return _rename_value(arg)
    name, equals, value = arg[2:].partition("=")
    return f"--{rename(name)}{equals}{_rename_value(value)}"


def _rename_value(value: str) -> str:
    """Return a class path, or JSON that holds some, with today's names."""
    if '"class_path"' not in value:
        return str(rename_class(value))
    try:
        plain = json.loads(value)
    except ValueError:
        return value
    return json.dumps(rename_class_paths(rename_arguments(plain, level=logging.WARNING)))


def inline_options(verb: str, args: Sequence[str], known: Collection[str]) -> list[str]:
    """Return arguments with each `--config FILE` of a function's options replaced by its content.

    Raises:
        OmniError: If a file cannot be read or holds options that the verb does not take.
    """

    def read_options(path: Path) -> dict[str, Any]:
        plain = read_yaml(path)
        if not isinstance(plain, dict):
            raise OmniError(f"'{path}' holds no options; give a YAML file of `name: value` lines")
        renamed: dict[str, Any] = _rename_settings(
            {new_option_name(str(name), known): value for name, value in plain.items()}
        )
        _check_options(verb, path, renamed, known)
        return renamed

    return _inline_configs(args, read_options)


def plain_arguments(args: Sequence[str]) -> list[str]:
    """Return arguments with sentences in UTF-8, whatever the locale, and `~` as the home folder."""
    plain: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        if not (equals and name.startswith("--")):
            name, equals, value = plain[-1] if plain else "", "", arg
        if name not in _SENTENCES:
            value = expand_home(value)
        else:
            with contextlib.suppress(UnicodeError):
                value = os.fsencode(value).decode("utf-8")
        plain.append(f"{name}={value}" if equals else value)
    return plain


def take_texts(args: list[str], names: Collection[str]) -> dict[str, str]:
    """Remove options from arguments and return their values by name.

    A parser would read `null`, `~` or `# 1` as nothing.

    Args:
        args: arguments behind the verb, changed.
        names: names of the options.
    """
    taken = {}
    for name in names:
        while (value := take_option(args, name)) is not None:
            taken[name] = value
    return taken


def take_option(args: list[str], name: str) -> str | None:
    """Remove an option from arguments and return its value; None if it is not given.

    Raises:
        OmniError: If it has no value.
    """
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option == f"--{name}":
            if not equals and i + 1 == len(args):
                raise OmniError(f"--{name} needs a value")
            value = value if equals else args[i + 1]
            del args[i : i + (1 if equals else 2)]
            return value
    return None


def inline_recipes(verb: str, args: Sequence[str]) -> list[str]:
    """Return arguments with each `--config FILE` of a trainer's verb replaced by its content.

    Raises:
        OmniError: If a file cannot be read, or is neither a recipe nor a part of one.
    """

    def read_checked_recipe(path: Path) -> dict[str, Any]:
        recipe = read_recipe(path)
        has_section = any(isinstance(recipe.get(name), dict) for name in _SECTIONS)
        unknown = sorted(set(map(str, recipe)) - _SECTIONS - _BESIDE)
        if unknown and has_section:
            hint = did_you_mean(unknown[0], _SECTIONS | _BESIDE)
            raise OmniError(
                f"'{path}' has the unknown section {unknown[0]}{hint}; a recipe has trainer, "
                "model and data"
            )
        if unknown:
            raise OmniError(
                f"'{path}' is not a recipe: it has {', '.join(unknown)} and no section trainer, "
                f"model or data; `{verb}` takes one such as recipes/stage3.yaml"
            )
        return recipe

    renamed = [rename_option(_rename_argument(arg, lambda name: name)) for arg in args]
    return _drop_replaced_lists(_inline_values(_inline_configs(renamed, read_checked_recipe)))


def _drop_replaced_lists(args: Sequence[str]) -> list[str]:
    """Return arguments without lists of the trainer that a later argument replaces.

    A parser gives what it knows of an earlier list's callback to the later one's callback at the
    same index, if both take an argument of that name and the lists are of one length.
    """
    kept, replaced = list(args), set()
    for i, arg in reversed(list(enumerate(args))):
        name, _, value = arg.partition("=")
        if name.startswith("--trainer."):
            replaced.add(name.removeprefix("--trainer."))
        elif name in _CONFIG and value.startswith("{"):
            recipe = json.loads(value)
            trainer = recipe.get("trainer")
            lists = [k for k, v in (trainer or {}).items() if isinstance(v, list)]
            for key in lists:
                if key in replaced:
                    del trainer[key]
            replaced.update(lists)
            kept[i] = f"{name}={json.dumps(recipe)}"
    return kept


def _check_options(verb: str, path: Path, plain: Mapping[str, Any], known: Collection[str]) -> None:
    names = {name.partition(".")[0] for name in plain}
    unknown = sorted(names - {BASE, *known})
    if not unknown:
        return
    if names >= _SECTIONS:
        kind = " seems to be a recipe of the verb `fit`"
    elif len(unknown) == 1 < len(names) and (hint := did_you_mean(unknown[0], known)):
        raise OmniError(f"'{path}' has the unknown option {unknown[0]}{hint}")
    else:
        kind = " seems to be of another verb"
    raise OmniError(
        f"'{path}'{kind}: `{verb}` takes no {', '.join(unknown)}; it takes {', '.join(known)}"
    )


def _inline_configs(args: Sequence[str], read: Callable[[Path], dict[str, Any]]) -> list[str]:
    """Replace files behind `--config X`, `--config=X` and `-c X` by their content as JSON."""
    inlined, rest = [], iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if name not in _CONFIG:
            inlined.append(arg)
            continue
        path = value if equals else next(rest, None)
        if path is None:
            inlined.append(arg)
            continue
        inlined.append(f"--config={json.dumps(read(Path(path)), default=str)}")
    return inlined


def _inline_values(args: Sequence[str]) -> list[str]:
    """Replace YAML files behind other options, as `--model.backbone X`, by their content."""

    def inline_value(value: str) -> str:
        is_file = value.endswith((".yaml", ".yml")) and Path(value).is_file()
        return json.dumps(read_recipe(Path(value)), default=str) if is_file else value

    inlined = []
    for arg in args:
        name, equals, value = arg.partition("=")
        has_value = equals and name.startswith("--")
        inlined.append(f"{name}={inline_value(value)}" if has_value else inline_value(arg))
    return inlined


def argument_names_in(args: Sequence[str]) -> list[str]:
    """Return the names of arguments in inlined recipes, to suggest them for misspelt ones."""
    texts = [arg.removeprefix("--config=") for arg in args if arg.startswith("--config={")]
    return [name for text in texts for name in re.findall(r'"(\w+)": ', text)]
