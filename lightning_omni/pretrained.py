"""Save and load a network as a folder: its configuration and its weights."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_omni.deferred_init import deferring_constructor
from lightning_omni.errors import OmniError
from lightning_omni.files import expand_home, make_folder, read_json_object
from lightning_omni.old_names import rename_arguments, resolve_class_path
from lightning_omni.whole_files import replace_when_complete

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_TRUSTED = ("lightning_omni.",)
_Module = TypeVar("_Module", bound="Pretrained")


class Pretrained(nn.Module):
    """A module that records its arguments, so that it can be saved and rebuilt.

    A subclass has an ordinary `__init__` with plain arguments or other `Pretrained` modules; they
    are recorded as `class_path` and `init_args`, the form recipes use.
    """

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _record_arguments(cls.__init__)  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """Return the configuration, without weights, from which `build_module` rebuilds it."""
        cls = _class_before_sharding(type(self))
        args = {
            name: value.config() if isinstance(value, Pretrained) else value
            for name, value in self.__dict__.get("init_args", {}).items()
        }
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": args}

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> Path:
        """Write `config.json` and `model.safetensors` into `folder` and return it.

        Args:
            folder: Target folder, made if it does not exist.
            weights: Weights to write, gathered where devices share them; None for the module's own.

        Raises:
            OmniError: If that fails; earlier files there are unchanged.
        """
        folder = Path(folder)
        make_folder(folder)
        with replace_when_complete(folder / WEIGHTS_FILE, folder / CONFIG_FILE) as files:
            save_file(
                _copy_shared_weights(self.state_dict() if weights is None else weights), files[0]
            )
            files[1].write_text(json.dumps(self.config(), indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls: type[_Module], folder: str | Path) -> _Module:
        """Rebuild a module from a folder written by `save_pretrained`, in evaluation mode.

        Raises:
            OmniError: If the folder is incomplete or holds another kind of module.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise OmniError(
                    f"no {cls.__name__} in '{folder}': {name} is missing; "
                    "give the folder that training exported, or train one first"
                )
        path = folder / CONFIG_FILE
        config = read_json_object(path, remedy="export the model again")
        try:
            module = build_module(config)
        except (TypeError, ValueError) as error:
            raise OmniError(f"'{path}' describes no module of this version ({error})") from error
        if not isinstance(module, cls):
            raise OmniError(f"'{folder}' holds a {type(module).__name__}, wanted a {cls.__name__}")
        state = load_weights(folder)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise OmniError(
                f"weights in '{folder}' do not fit its {CONFIG_FILE}: {error}"
            ) from error
        return module.eval()


def _class_before_sharding(cls: type[Any]) -> type[Any]:
    """Return the class that `fully_shard` derived a class from, or the class itself.

    FSDP is not imported here: that takes as long as a quarter of all other imports, and where it
    is not loaded nothing is sharded.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharded = () if fsdp is None else (fsdp.FSDPModule,)
    return next(c for c in cls.__mro__ if not issubclass(c, sharded))


def _copy_shared_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous weights, copied only where two names share one, as the format requires."""
    seen: set[int] = set()
    unshared = {}
    for name, value in state.items():
        tensor = value.detach().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return unshared


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights in an exported folder.

    Raises:
        OmniError: If the file is damaged.
    """
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise OmniError(f"'{path}' is damaged ({error}); copy or export the model again") from error


def fingerprint(folder: str | Path) -> str:
    """Return a hash of the config and weights in an exported folder, equal iff the bytes are."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((Path(folder) / name).read_bytes())
    return digest.hexdigest()


def build_module(config: Any) -> Any:
    """Build a module from `class_path` and `init_args`; classes of other packages are refused."""
    if not (isinstance(config, dict) and "class_path" in config):
        return config
    path = str(config["class_path"])
    if not path.startswith(_TRUSTED):
        raise OmniError(f"refused to build '{path}': only lightning_omni's classes are trusted")
    module_name, _, class_name = resolve_class_path(path).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise OmniError(f"no class '{path}' in this version of lightning_omni") from error
    args = rename_arguments(config.get("init_args", {}))
    return cls(**{k: build_module(v) for k, v in args.items()})


def _record_arguments(init: Any) -> Any:
    """Wrap an `__init__` so that the outermost call records its arguments."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def init_and_record(self: Pretrained, *args: Any, **kwargs: Any) -> None:
        if "init_args" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            plain = {k: v for k, v in bound.arguments.items() if k != "self"}
            object.__setattr__(self, "init_args", plain)
        with deferring_constructor():
            init(self, *args, **kwargs)

    return init_and_record


log = logging.getLogger(__name__)

BUNDLED = "bundled"
"""Word for the model that comes with the package."""
SHIPPED = "shipped"  # old word, accepted for one release
FOLDER = Path(__file__).parent / "assets" / "mini"


def resolve_pretrained(given: str | list[str], part: str = "") -> Path:
    """Return the first folder that holds an exported network.

    Args:
        given: A folder, or several in order of preference; the word `bundled` stands for the
            model that comes with the package.
        part: Folder inside the bundled model, such as `image_tokenizer`; empty for the model.

    Returns:
        The first folder that exists, else the first of all, so that the caller's error names it.
    """
    names = [given] if isinstance(given, str) else list(given)
    folders = [
        FOLDER / part if name in (BUNDLED, SHIPPED) else Path(expand_home(name)) for name in names
    ]
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            if folder != folders[0]:
                log.info("nothing in '%s' yet; taking '%s'", folders[0], folder)
            return folder
    return folders[0]
