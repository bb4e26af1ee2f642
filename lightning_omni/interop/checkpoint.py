"""A folder of safetensors as the hub lays it out: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object

INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NAMED = 3


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        OmniError: If there are none, an index names one that is missing, or there are only pickles.
    """
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; give the folder of a checkpoint")
    if (folder / INDEX).is_file():
        index = read_json_object(folder / INDEX, remedy="copy the checkpoint again")
        files = sorted({folder / str(name) for name in index.get("weight_map", {}).values()})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise OmniError(f"'{folder / INDEX}' names {missing[0]}, which is missing; copy it")
    else:
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise OmniError(
                f"'{folder}' holds {pickles[0]}, a pickle, which may run code when it is read; "
                "convert it to safetensors first"
            )
        raise OmniError(f"no safetensors in '{folder}'; give the folder of a checkpoint")
    return files


def read_weights(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield `(name, tensor)`, one tensor in memory at a time.

    Raises:
        OmniError: If a file is damaged, or two files hold the same name.
    """
    seen: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    if name in seen:
                        raise OmniError(f"'{name}' is in '{seen[name]}' and in '{file}'")
                    seen[name] = file
                    yield name, weights.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise OmniError(f"'{file}' is damaged ({error}); copy it again") from error


def fill_module(
    module: nn.Module,
    weights: Iterator[tuple[str, Tensor]],
    rename: Callable[[str], str | None],
    *,
    about: str,
) -> None:
    """Put weights in the place of a module's own, one by one, so that no two copies exist.

    Args:
        module: May be on the meta device.
        weights: `(name, tensor)` with the published names.
        rename: Our name of a published one; None leaves the weight out.
        about: Named in errors.

    Raises:
        OmniError: Listing missing, unexpected and misshapen weights, after all were looked at.
    """
    own = dict(module.state_dict(keep_vars=True))
    aliases: dict[int, list[str]] = {}
    for name, value in own.items():
        aliases.setdefault(id(value), []).append(name)
    filled: set[str] = set()
    unexpected, misshapen = [], []
    for theirs, tensor in weights:
        ours = rename(theirs)
        if ours is None:
            continue
        if ours not in own:
            unexpected.append(theirs)
        elif own[ours].shape != tensor.shape:
            want, got = tuple(own[ours].shape), tuple(tensor.shape)
            misshapen.append(f"{theirs} is {got}, wanted {want}")
        else:
            value = _like(own[ours], tensor)
            for alias in aliases[id(own[ours])]:
                _assign(module, alias, value)
                filled.add(alias)
    missing = sorted(set(own) - filled)
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    told = [
        f"{len(names)} {kind} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for kind, names in faults.items()
        if names
    ]
    if told:
        raise OmniError(f"the weights do not fit {about}: {'; '.join(told)}")


def _like(old: Tensor, tensor: Tensor) -> Tensor:
    """A parameter where there was one, so that tied names go on sharing it."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=old.requires_grad)
    return tensor


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, value)
