"""Read a recipe: YAML that may build on a base, name other YAML files and use old names."""

from __future__ import annotations

import logging
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from lightning_omni.errors import OmniError
from lightning_omni.files import expand_home, read_regular_file
from lightning_omni.old_names import rename_arguments, rename_class_paths

BASE = "base"
"""Key of a recipe that names the recipe it builds on."""
CALLBACKS = "callbacks"
MAX_FILE_BYTES = 10_000_000
MAX_NODES = 100_000
"""Most values of a file, aliases written out."""
CONFIG = "config.yaml"
"""Name of the recipe that the first start of a run writes into the run's folder."""
_STARTS = re.compile(r"config(?:\.start-(\d+))?\.yaml")
MAX_DEPTH = 1000
_BRACKETS = re.compile(r"[\[\]{}]")
_SUFFIXES = (".yaml", ".yml")


class _Loader(yaml.SafeLoader):
    """YAML that also reads 1e-3 as a number, as the command line does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe with its base merged in and the YAML files it names put in their places.

    `base: other.yaml` names a recipe, relative to the file, of which only the differences follow:

    - mappings are merged key by key, but one with another `class_path` replaces its counterpart;
    - entries of `callbacks` are merged with those of the same class, and others are appended;
    - any other value, lists included, replaces its counterpart.

    Raises:
        OmniError: If a file is missing, is not YAML or holds no options, or a base is its own base.
    """
    recipe = _inline_files(_read_with_base(path, ()))
    if not isinstance(recipe, dict):
        raise OmniError(f"'{path}' holds no options; give a YAML file of `name: value` lines")
    return recipe


def _load_yaml(text: str, path: Path) -> Any:
    """Parse YAML of at most `MAX_DEPTH` levels of brackets and `MAX_NODES` values."""
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKETS.findall(text))
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise OmniError(f"'{path}' opens more than {MAX_DEPTH} brackets; correct it")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _expanded_size(node, {})) > MAX_NODES:
            raise OmniError(
                f"'{path}' stands for {size:.3g} values with its aliases written out, at most "
                f"{MAX_NODES} are read; write what it means without nested aliases"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the number of values of a node, its aliases written out; infinite if it holds itself.

    Args:
        node: The node.
        known: Sizes of nodes by identity, infinite while they are counted.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    size = 1.0
    if isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(child, known) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_expanded_size(child, known) for pair in node.value for child in pair)
    known[id(node)] = size
    return size


def read_yaml(path: Path) -> Any:
    """Read a YAML file, old names of classes and arguments replaced by the new ones.

    Raises:
        OmniError: If the file is missing, is not YAML or names a class that no longer exists.
    """
    try:
        text = read_regular_file(path, limit=MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise OmniError(f"cannot read the YAML file '{path}' ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error
    try:
        plain = _expand_homes(_load_yaml(text, path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise OmniError(f"'{path}' is not YAML ({error}); correct it") from error
    try:
        return rename_class_paths(rename_arguments(plain, level=logging.WARNING))
    except OmniError as error:
        raise OmniError(f"'{path}': {error}") from error


def _expand_homes(value: Any) -> Any:
    """Replace the `~` of paths by the home folder, at any depth."""
    if isinstance(value, dict):
        return {k: _expand_homes(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_homes(v) for v in value]
    return expand_home(value) if isinstance(value, str) else value


def merge_recipes(base: Any, changes: Any) -> Any:
    """Return a base with changes merged in, as `read_recipe` describes."""
    if isinstance(base, Path) and isinstance(changes, dict):
        base = _read_with_base(base, ())
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    if "class_path" in changes and changes["class_path"] != base.get("class_path"):
        return changes
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge_value(key, base[key], value) if key in base else value
    return merged


def _merge_value(key: str, base: Any, value: Any) -> Any:
    if key == CALLBACKS and isinstance(base, list) and isinstance(value, list):
        return _merge_callbacks(base, value)
    return merge_recipes(base, value)


def _merge_callbacks(base: list[Any], changes: list[Any]) -> list[Any]:
    merged = list(base)
    names = [_class_path_of_callback(entry) for entry in base]
    for entry in changes:
        name = _class_path_of_callback(entry)
        if name is not None and name in names:
            index = names.index(name)
            merged[index] = merge_recipes(merged[index], entry)
        else:
            merged.append(entry)
    return merged


def _class_path_of_callback(entry: Any) -> Any:
    return entry.get("class_path") if isinstance(entry, dict) else None


def _read_with_base(path: Path, builders: tuple[Path, ...]) -> Any:
    """Read a file with its base merged in; names of other files become absolute paths.

    Args:
        path: the file.
        builders: files that build on it.
    """
    path = path.resolve()
    if path in builders:
        raise OmniError(f"'{path}' builds on itself; take a `base` out")
    content = _locate_files(read_yaml(path), path.parent)
    if not (isinstance(content, dict) and BASE in content):
        return content
    base = content.pop(BASE)
    if not isinstance(base, Path):
        raise OmniError(f"'{path}' has the base '{base}', which is no YAML file beside it")
    return merge_recipes(_read_with_base(base, (*builders, path)), content)


def _locate_files(value: Any, folder: Path) -> Any:
    """Replace names of YAML files that exist in `folder` by their paths."""
    if isinstance(value, dict):
        return {k: _locate_files(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_locate_files(v, folder) for v in value]
    if isinstance(value, str) and value.endswith(_SUFFIXES) and (folder / value).is_file():
        return folder / value
    return value


def _inline_files(value: Any) -> Any:
    """Replace paths by the content of their files."""
    if isinstance(value, dict):
        return {k: _inline_files(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_inline_files(v) for v in value]
    return _inline_files(_read_with_base(value, ())) if isinstance(value, Path) else value


def next_config_name(folder: Path) -> str:
    """Return the name of the recipe of the next start in a run's folder."""
    count = max((number for number, _ in _list_configs(folder)), default=0)
    return CONFIG if not count else f"config.start-{count + 1}.yaml"


def find_config(folder: Path) -> Path | None:
    """Return the recipe of the last start in a run's folder; None if there is none."""
    return max(_list_configs(folder), default=(0, None))[1]


def _list_configs(folder: Path) -> list[tuple[int, Path]]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = [(_STARTS.fullmatch(path.name), path) for path in paths]
    return [(int(match[1] or 1), path) for match, path in matches if match]
