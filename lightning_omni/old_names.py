"""Old names of modules and classes, kept for one release.

Exports, checkpoints and recipes name classes by their dotted path. An import of a path that moved
finds the class where it is now and logs the new path once.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_PACKAGE = "lightning_omni."
_TABLES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "assets" / "old_names.json").read_text("utf-8")
)
MODULES: dict[str, str] = _TABLES["modules"]
"""Old module: new module, both below this package."""
PATHS = {
    f"{package}.{old}": f"{package}.{new}"
    for package, table in (("lightning_omni", MODULES), ("data_prep", _TABLES["data_prep"]))
    for old, new in table.items()
}
"""Old module: new module, of this package and of `data_prep`, by their whole paths."""
NAMES: dict[str, str] = _TABLES["names"]
"""Old name of a class or function: its new name; with its old module where a name had two uses."""
REMOVED_MODULES: dict[str, str] = _TABLES["removed_modules"]
"""Old module that has no successor: what is there instead."""
SETTINGS: dict[str, str] = _TABLES["settings"]
"""Old name of a setting of generation: its new name."""
CLASSES = {
    "lightning.pytorch.callbacks.EMAWeightAveraging": "lightning_omni.callbacks.ema.EMA",
}
"""Class of another package: ours, which takes its place."""
CLASS_ARGUMENTS: dict[str, dict[str, str]] = {
    "lightning_omni.callbacks.ema.EMA": {
        "decay": "decay",
        "update_every_n_steps": "every_n_steps",
        "every_n_steps": "every_n_steps",
    }
}
"""Class of ours that took another's place: arguments of either by their name now; others go."""
REMOVED_SETTINGS: dict[str, Any] = _TABLES["removed_settings"]
"""Setting of generation that no longer exists: the value at which it changed nothing."""
REMOVED_OPTIONS: dict[str, str] = _TABLES["removed_options"]
"""Old option or setting that has no new name: what is there instead."""
ARGUMENTS: dict[str, str] = _TABLES["arguments"]
"""Old name of a class's argument: its new name."""
REMOVED: dict[str, str] = _TABLES["removed"]
"""Argument that no longer exists: why it is ignored, which is logged unless it was off."""


def resolve_class_path(path: str) -> str:
    """Return the dotted path of a class or function as it is now.

    Raises:
        OmniError: If its module was removed.
    """
    module, _, name = path.rpartition(".")
    own = module.removeprefix(_PACKAGE)
    if own in REMOVED_MODULES:
        raise OmniError(f"'{path}' no longer exists: {REMOVED_MODULES[own]}")
    return f"{_PACKAGE}{MODULES.get(own, own)}.{_new_name(own, name)}"


def _new_name(module: str, name: str) -> str:
    """Return the new name of a class or function of an old module."""
    return NAMES.get(f"{module}.{name}", NAMES.get(name, name))


def rename_arguments(plain: Any, *, level: int = logging.DEBUG) -> Any:
    """Return a recipe or saved configuration, nested or not, with the arguments' new names.

    Args:
        plain: Anything made of dictionaries, lists and plain values.
        level: Logging level of the message about a new name.
    """
    if isinstance(plain, list):
        return [rename_arguments(value, level=level) for value in plain]
    if not isinstance(plain, dict):
        return plain
    return {
        _rename_argument(name, level): rename_arguments(value, level=level)
        for name, value in plain.items()
        if not _is_removed(name, value, level)
    }


def rename_class_paths(plain: Any) -> Any:
    """Return a recipe or saved configuration whose `class_path`s lead to where classes are now."""
    if isinstance(plain, list):
        return [rename_class_paths(value) for value in plain]
    if not isinstance(plain, dict):
        return plain
    renamed = {
        name: rename_class(value) if name == "class_path" else rename_class_paths(value)
        for name, value in plain.items()
    }
    names = CLASS_ARGUMENTS.get(str(renamed.get("class_path")))
    if plain.get("class_path") in CLASSES and names and isinstance(renamed.get("init_args"), dict):
        given = renamed["init_args"]
        renamed["init_args"] = {names[n]: given[n] for n in given if n in names}
        for name in given:
            if name not in names and given[name]:
                log_once(logging.WARNING, "the argument '%s' of %s is ignored", name, "averaging")
    return renamed


def rename_class(path: Any) -> Any:
    """Return the dotted path of a class of this package as it is now; log a change once."""
    if not (isinstance(path, str) and (path.startswith(_PACKAGE) or path in CLASSES)):
        return path
    new = CLASSES[path] if path in CLASSES else resolve_class_path(path)
    if new != path:
        log_once(logging.WARNING, "the class '%s' is now '%s'", path, new)
    return new


def rename_option(arg: str) -> str:
    """Return a command-line option such as `--model.lora.rows_from=3` with its new name."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    path, dot, last = name.rpartition(".")
    return f"{path}{dot}{_rename_argument(last, logging.WARNING)}{equals}{value}" if dot else arg


def rename_path(path: str) -> str:
    """Return a dotted path into a recipe with the arguments' new names.

    Raises:
        OmniError: If an argument on it no longer exists.
    """
    names = path.split(".")
    for name in names:
        if name in REMOVED:
            raise OmniError(f"'{path}' no longer exists: {REMOVED[name]}; leave it out")
    return ".".join(_rename_argument(name, logging.WARNING) for name in names)


def _is_removed(name: Any, value: Any, level: int) -> bool:
    if name in REMOVED and value:
        log_once(level, "the argument '%s' is ignored: %s", name, REMOVED[name])
    return name in REMOVED


def _rename_argument(name: Any, level: int) -> Any:
    new = ARGUMENTS.get(name, name)
    if new != name:
        log_once(level, "the argument '%s' is now '%s'", name, new)
    return new


def refuse_removed_option(name: str) -> NoReturn:
    """Say what is there instead of an option or setting that no longer exists.

    Raises:
        OmniError: Always.
    """
    raise OmniError(f"the option '{name}' no longer exists: {REMOVED_OPTIONS[name]}")


@functools.cache
def log_once(level: int, message: str, old: str, new: str) -> None:
    """Log a message about an old name, once per process."""
    log.log(level, message, old, new)


def is_ignored_setting(name: str, value: Any) -> bool:
    """Return whether a setting of generation was removed and the value changed nothing; log it."""
    if name not in REMOVED_SETTINGS or value != REMOVED_SETTINGS[name]:
        return False
    log_once(logging.WARNING, "the setting '%s: %s' is ignored: it no longer exists", name, value)
    return True


def unwrap_modality_key(name: str, value: Any) -> Any:
    """Return a number that was written by modality as one number.

    Raises:
        OmniError: If modalities are named.
    """
    if name not in ("guidance_scale", "timestep_shift") or not isinstance(value, dict):
        return value
    if set(value) != {""}:
        raise OmniError(f"{name} is {value}, wanted one number; values by modality no longer exist")
    return value[""]


class _Moved(ModuleType):
    """Stands in for a module that moved."""

    def __getattr__(self, name: str) -> Any:
        return _get_by_old_name(self, name, PATHS.get(self.__name__, self.__name__))


def _get_by_old_name(module: ModuleType, name: str, target: str) -> Any:
    """Return what an old name of a module stands for, and log where it is now.

    Args:
        module: module under its old path.
        name: attribute that it lacks.
        target: module where the attribute is now.

    Raises:
        AttributeError: If there is no such attribute.
    """
    own = module.__name__.removeprefix(_PACKAGE)
    new = name if own == module.__name__ else _new_name(own, name)
    if name.startswith("__") or (module.__name__, name) == (target, new):
        raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(target), new)
    module.__dict__[name] = value
    log.warning("'%s.%s' is now '%s.%s'", module.__name__, name, target, new)
    return value


class _SourceLoader(SourceFileLoader):
    """Loads a module in which old names of its classes are found too."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = functools.partial(
            _get_by_old_name, module, target=module.__name__
        )
        super().exec_module(module)


class _MovedLoader(Loader):
    """Makes the stand-in for a module that moved."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Attributes are looked up when they are used."""


class _Finder(MetaPathFinder):
    """Finds modules of this package and of `data_prep`, under old paths too."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith((_PACKAGE, "data_prep.")):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            if type(spec.loader) is SourceFileLoader and fullname.startswith(_PACKAGE):
                spec.loader = _SourceLoader(fullname, spec.loader.path)
            return spec
        is_package = any(old.startswith(f"{fullname}.") for old in PATHS)
        if not (is_package or fullname in PATHS):
            return None
        return ModuleSpec(fullname, _MovedLoader(), is_package=is_package)


def install_finder() -> None:
    """Make old paths and names importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
