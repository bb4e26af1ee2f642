"""Files of others that are read from a local folder: weights that were pickled, and settings."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lightning_omni.errors import OmniError, fold_text
from lightning_omni.files import read_regular_file
from lightning_omni.interop.checkpoint import StoredTensor, match_weights, refuse_pointer

_FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the weights."""
_MAX_SETTINGS_BYTES, _MAX_SIZE = 1_000_000, 2**20


def check_published_files(folder: Path, names: tuple[str, ...], *, source: str) -> None:
    """Refuse a folder in which a file is missing, empty or only the pointer to one.

    Args:
        folder: Folder that somebody downloaded.
        names: Files that are needed.
        source: What the folder is a copy of, for errors.

    Raises:
        OmniError: Naming the files.
    """
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; give the folder of a copy of {source}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise OmniError(
            f"'{folder}' has no {', '.join(missing)}, of {', '.join(names)}; give the folder of a "
            f"whole copy of {source}"
        )
    for name in names:
        check_file_is_whole(folder / name)


def check_file_is_whole(file: Path) -> None:
    """Refuse a file that is empty or a pointer of Git LFS.

    Raises:
        OmniError: If it is.
    """
    if not file.stat().st_size:
        raise OmniError(f"'{file}' is empty; download it again")
    refuse_pointer(file)


def read_pickled_weights(file: Path) -> dict[str, Tensor]:
    """Read a state dict that was pickled; nothing else than tensors is built.

    Raises:
        OmniError: If the file is damaged or cut, holds something else, or a weight is not finite.
    """
    check_file_is_whole(file)
    try:
        with torch.device("cpu"):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise OmniError(
            f"'{file}' is no file of weights, or holds more than weights, which may run code when "
            f"it is read ({_first_line(error)}); download it again"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise OmniError(
            f"'{file}' is damaged or was not downloaded to its end ({_first_line(error)}); "
            "download it again"
        ) from error
    while isinstance(found, Mapping) and (inner := [k for k in _NESTED if k in found]):
        found = found[inner[0]]
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise OmniError(f"'{file}' holds a {type(found).__name__}, wanted weights by their names")
    check_weights_are_finite(found, file)
    return dict(found)


def check_weights_are_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that are infinite or no numbers.

    Args:
        weights: Weights by name.
        file: File that they are from, for errors.

    Raises:
        OmniError: Naming the first.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise OmniError(f"{name} in '{file}' holds values that are not finite; copy it again")


def _first_line(error: BaseException) -> str:
    return fold_text(str(error).strip().split("\n")[0], 120)


def assign_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    file: Path,
    *,
    rename: Callable[[str], str | None] = str,
) -> None:
    """Give a module the weights of a file: all that it has, and no others.

    Args:
        module: Network, possibly on the meta device; its names are the published ones.
        weights: Weights by name.
        file: File that they are from, for errors.
        rename: Map from names in the file to the module's; None leaves a weight out.

    Raises:
        OmniError: Listing weights that are missing, unexpected or of another shape.
    """
    stored = {
        name: StoredTensor(file, _FORMATS.get(value.dtype, str(value.dtype)), tuple(value.shape))
        for name, value in weights.items()
    }
    names = match_weights(module, stored, rename, str, about=f"'{file}'")
    state = {ours: weights[theirs] for theirs, found in names.items() for ours in found}
    module.load_state_dict(state, assign=True)


class _PlainLoader(yaml.SafeLoader):
    """Reads tags of other programs, such as those that name a class, as plain mappings."""


TAG = "!"
"""Key of the tag of a mapping."""


def _build_plain(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {TAG: tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return f"!{tag} {node.value}"


_PlainLoader.add_multi_constructor("!", _build_plain)


def read_plain_settings(file: Path) -> dict[str, Any]:
    """Read YAML as plain data; a tag, which would name code to run, is only noted as `TAG`.

    Raises:
        OmniError: If it is damaged or holds something else than settings by name.
    """
    try:
        content = read_regular_file(file, limit=_MAX_SETTINGS_BYTES)
        # a subclass of the safe loader, which builds plain data only
        plain = yaml.load(content, Loader=_PlainLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise OmniError(
            f"'{file}' is not YAML ({_first_line(error)}); download it again"
        ) from error
    if not isinstance(plain, dict):
        raise OmniError(f"'{file}' holds a {type(plain).__name__}, wanted settings by their names")
    return plain


def check_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, about: str, part: str = ""
) -> None:
    """Refuse settings that our network does not have; those that are not given are not compared.

    Args:
        found: Settings of a file.
        wanted: What our network stands for.
        about: File, for errors.
        part: Name of the settings in the file; empty for the file itself.

    Raises:
        OmniError: Naming the first that differs.
    """
    for name, value in wanted.items():
        if name in found and found[name] != value:
            raise OmniError(
                f"'{about}' has {_full_name(part, name)} {found[name]!r}, but this network is "
                f"written for {value!r}; give the published folder"
            )


def _full_name(part: str, name: str) -> str:
    return f"{part}.{name}" if part else name


def read_size(
    found: Mapping[str, Any], name: str, *, about: str, part: str = "", least: int = 1
) -> int:
    """Return a size from settings; see `check_settings`.

    Raises:
        OmniError: If it is missing or no integer from `least` on.
    """
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_SIZE:
        raise OmniError(
            f"'{about}' has {_full_name(part, name)} {value!r}, wanted an integer from {least} to "
            f"{_MAX_SIZE}"
        )
    return value


def read_part(settings: Mapping[str, Any], name: str, *, about: str) -> dict[str, Any]:
    """Return a mapping inside of settings.

    Raises:
        OmniError: If it is missing or no mapping.
    """
    part = settings.get(name)
    if not isinstance(part, dict):
        raise OmniError(f"'{about}' has no settings '{name}'; download it again")
    return part
