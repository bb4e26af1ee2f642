"""Read a folder of safetensors in the hub's layout: one file, or shards with an index."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object

INDEX = "model.safetensors.index.json"
Rename = Callable[[str], str | None]
"""Map a published name to ours; None leaves the weight out."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".th")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_POINTER = b"version https://git-lfs"
FLOATS = ("F64", "F32", "F16", "BF16")
_NAMED = 12
_ROWS = 1024


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Description of a tensor in a file's header.

    Attributes:
        file: file that holds the tensor.
        format: safetensors name of the number format, such as BF16.
        shape: shape of the tensor.
    """

    file: Path
    format: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in order.

    Raises:
        OmniError: If there are none, the index is wrong, or there are only pickles.
    """
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; give the folder of a checkpoint")
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    files = [path for path in found if path.name.startswith("model")] or found
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise OmniError(
                f"'{folder}' holds {pickles[0]}, a pickle, which may run code when it is read; "
                "convert it to safetensors first"
            )
        raise OmniError(f"no safetensors in '{folder}'; give the folder of a checkpoint")
    return files


def _indexed_files(folder: Path) -> list[Path]:
    """Return the files that an index names, checked weight by weight."""
    path = folder / INDEX
    weight_map = read_json_object(path, remedy="copy the checkpoint again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise OmniError(f"'{path}' has no weight_map of names to files; copy the checkpoint again")
    for file in weight_map.values():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise OmniError(f"'{path}' names {file!r}, wanted the name of a file in that folder")
    files = [folder / file for file in sorted(set(weight_map.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise OmniError(f"'{path}' names {missing[0]}, which is missing; copy it")
    stored = {name: entry.file.name for name, entry in read_headers(files).items()}
    for name in sorted({*weight_map, *stored}):
        said, found = weight_map.get(name, "no file"), stored.get(name, "no file")
        if said != found:
            raise OmniError(
                f"'{path}' says that {name} is in {said}, but it is in {found}; "
                "copy the checkpoint again"
            )
    return files


def read_headers(files: list[Path]) -> dict[str, StoredTensor]:
    """Return descriptions of the stored tensors by name, without reading them.

    Raises:
        OmniError: If a file is damaged or a pickle, or two files hold the same name.
    """
    stored: dict[str, StoredTensor] = {}
    for file in files:
        with _open_safetensors(file) as weights:
            _refuse_repeated_names(file)
            for name in weights.keys():  # noqa: SIM118 - not a dict
                if name in stored:
                    raise OmniError(
                        f"'{name}' is in '{stored[name].file}' and in '{file}'; keep one of them"
                    )
                entry = weights.get_slice(name)
                stored[name] = StoredTensor(file, entry.get_dtype(), tuple(entry.get_shape()))
    return stored


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata in a file's header.

    Raises:
        OmniError: If the file is damaged.
    """
    with _open_safetensors(file) as weights:
        return dict(weights.metadata() or {})


def read_weights(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield `(name, tensor)` from files whose headers were read; one file is open at a time.

    Raises:
        OmniError: If a weight is infinite or no number.
    """
    for file in files:
        with _open_safetensors(file) as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor):
                    raise OmniError(
                        f"{name} in '{file}' holds values that are not finite; "
                        "copy the checkpoint again, or train it again"
                    )
                yield name, tensor
                del tensor  # it keeps its file in memory


def _is_finite(tensor: Tensor) -> bool:
    """Tell whether all values are finite, without copying them."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def are_tables_equal(one: StoredTensor, name: str, two: StoredTensor, other: str) -> bool:
    """Tell whether two stored tables of one shape are equal, some rows at a time."""
    with _open_safetensors(one.file) as first, _open_safetensors(two.file) as second:
        tables = first.get_slice(name), second.get_slice(other)
        return all(
            torch.equal(*(table[row : row + _ROWS] for table in tables))
            for row in range(0, one.shape[0], _ROWS)
        )


def _open_safetensors(file: Path) -> Any:
    """Open a safetensors file."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        refuse_pointer(file)
        if _is_pickle(file):
            raise OmniError(
                f"'{file}' is a pickle, which may run code when it is read, and not "
                "safetensors; convert it first"
            ) from error
        raise OmniError(f"'{file}' is damaged ({error}); copy it again") from error


def refuse_pointer(file: Path) -> None:
    """Refuse a file of Git LFS that says where the content is and does not hold it.

    Raises:
        OmniError: If it is one.
    """
    with file.open("rb") as raw:
        if raw.read(len(_POINTER)) == _POINTER:
            raise OmniError(
                f"'{file}' is a pointer of Git LFS of {file.stat().st_size} bytes and not the file "
                "itself; run git lfs pull in that folder, or download it"
            )


def _is_pickle(file: Path) -> bool:
    """Tell whether a file starts as `torch.save` and `pickle` files do."""
    with file.open("rb") as raw:
        start = raw.read(8)
    is_binary = start.startswith(_PICKLE) and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return start.startswith(_ZIP) or (
        is_binary and int.from_bytes(start, "little") > file.stat().st_size
    )


def _refuse_repeated_names(file: Path) -> None:
    """Refuse a header that describes a name twice, as readers would silently take one."""

    def build_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        plain = dict(pairs)
        if len(plain) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in plain if names.count(name) > 1)
            raise OmniError(f"'{file}' describes '{repeated}' twice; copy it again")
        return plain

    with file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        json.loads(raw.read(size), object_pairs_hook=build_without_repeats)


def match_weights(
    module: nn.Module,
    stored: Mapping[str, StoredTensor],
    rename: Rename,
    published: Callable[[str], str],
    *,
    about: str,
) -> dict[str, list[str]]:
    """Return our names of every published weight: several for tied weights, none if left out.

    Args:
        module: network, possibly on the meta device.
        stored: descriptions of the stored tensors by name.
        rename: map from published names to ours.
        published: map from our names to published ones, used in errors.
        about: checkpoint's name in errors.

    Raises:
        OmniError: Listing weights that are missing, unexpected, given twice, of another shape or
            of a format that no network computes in.
    """
    own = dict(module.state_dict(keep_vars=True))
    tied = _names_by_tensor(own)
    ours = {theirs: rename(theirs) for theirs in stored}
    given = Counter(ours.values())
    names: dict[str, list[str]] = {}
    faults: dict[str, list[str]] = {}
    for theirs, entry in stored.items():
        name = ours[theirs]
        if name is None:
            names[theirs] = []
            continue
        names[theirs] = [n for n in tied.get(name, ()) if n == name or n not in given]
        fault, text = _describe_mismatch(theirs, own.get(name), entry)
        if fault is None and given[name] > 1:
            fault = "given twice"
        if fault is not None:
            faults.setdefault(fault, []).append(text)
    missing = set(own) - {n for found in names.values() for n in found}
    faults["missing"] = sorted(published(name) for name in missing)
    problems = [
        f"{len(which)} {kind} ({abbreviate_names(which)})"
        for kind, which in faults.items()
        if which
    ]
    if problems:
        raise OmniError(f"the weights do not fit {about}: {'; '.join(problems)}")
    return names


def _names_by_tensor(own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return, by name, all names of the same tensor."""
    by_tensor: dict[int, list[str]] = {}
    for name, value in own.items():
        by_tensor.setdefault(id(value), []).append(name)
    return {name: by_tensor[id(value)] for name, value in own.items()}


def _describe_mismatch(
    name: str, own: Tensor | None, entry: StoredTensor
) -> tuple[str | None, str]:
    """Return the kind of mismatch of a weight, if any, and its description."""
    if own is None:
        return "unexpected", name
    if tuple(own.shape) != entry.shape:
        return "of another shape", f"{name} is {entry.shape}, wanted {tuple(own.shape)}"
    if own.is_floating_point() and entry.format not in FLOATS:
        return "of another format", f"{name} is {entry.format}, wanted {', '.join(FLOATS)}"
    return None, name


def abbreviate_names(names: list[str]) -> str:
    """Return names joined by commas; of many, the first."""
    more = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


def load_module(
    module: nn.Module,
    files: list[Path],
    rename: Rename,
    published: Callable[[str], str],
    *,
    about: str,
) -> None:
    """Replace a module's weights by stored ones, one by one, so that no second copy exists.

    Args:
        module: network, possibly on the meta device.
        files: files of the checkpoint.
        rename: map from published names to ours.
        published: map from our names to published ones, used in errors.
        about: checkpoint's name in errors.

    Raises:
        OmniError: If a file is damaged or a weight does not fit.
    """
    names = match_weights(module, read_headers(files), rename, published, about=about)
    own = dict(module.state_dict(keep_vars=True))
    tied = _names_by_tensor(own)
    for theirs, tensor in read_weights(files):
        if names[theirs]:
            first = names[theirs][0]
            value = _wrap_like(own[first], tensor)
            for name in tied[first]:
                _assign_weight(module, name, value)


def _wrap_like(old: Tensor, tensor: Tensor) -> Tensor:
    """Return a parameter if the old weight was one, so that tied names keep sharing it."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=old.requires_grad)
    return tensor


def _assign_weight(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, value)
