"""What a resumed run states otherwise than its checkpoint did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_OF_NETWORK = (
    "model",
    "model.backbone",
    "model.code_feature_dims",
    "model.lora",
    "model.tokenizer",
    "model.special_tokens",
    "data",
    "data.special_tokens",
    "data.vocab",
)
"""Settings that decide what the weights mean: classes, and all below the other names."""
_OF_OPTIMIZER = "model.optimizer"
_NEVER_SAID = (
    "ckpt_path",
    "weights_only",
    "subcommand",
    "config",
    "run_defaults",
    "trainer.logger",
    "trainer.callbacks.ModelCheckpoint.dirpath",
)
"""Settings that follow from others, or from the command itself."""
_NONE = "none"

Settings = dict[str, Any]
"""Settings of a recipe by their dotted names, without `init_args`."""


def flatten_recipe(recipe: Mapping[str, Any]) -> Settings:
    """Return a recipe's settings by names such as `model.optimizer.lr`.

    A class is a setting of the name above its arguments. In lists of classes the class is a part
    of the name: `trainer.callbacks.EMA.decay`.
    """
    plain = json.loads(json.dumps(recipe, default=str))
    return dict(_flatten(plain, ""))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        if "class_path" in value:
            yield name, value["class_path"]
            yield from _flatten(value.get("init_args") or {}, name)
            return
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(v, dict) and "class_path" in v for v in value):
        for item in value:
            short = str(item["class_path"]).rpartition(".")[2] if isinstance(item, dict) else item
            yield from _flatten(item, f"{name}.{short}")
    else:
        yield name, value


def find_differences(before: Settings, now: Settings) -> list[str]:
    """Return the names of settings that differ, None being the same as absent."""
    return [
        name
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name) and not _is_below(name, _NEVER_SAID)
    ]


def changes_network(name: str, before: Settings, now: Settings) -> bool:
    """Whether a setting that differs makes another network of the same weights, or none.

    A setting that only one of them has is one of another version of the program or of another
    class, which differs, too.
    """
    if before.get(name) is None or now.get(name) is None:
        return False
    return name in _OF_NETWORK or _is_below(name, set(_OF_NETWORK) - {"model", "data"})


def changes_optimizer_class(name: str) -> bool:
    """Whether a setting is the class of the optimizer."""
    return name == _OF_OPTIMIZER


def describe_differences(names: list[str], before: Settings, now: Settings) -> str:
    """Return settings as `model.optimizer.lr 0.5 (checkpoint: 0.001)`, in a line."""
    return ", ".join(f"{n} {_show(now.get(n))} (checkpoint: {_show(before.get(n))})" for n in names)


def _is_below(name: str, parents: Any) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _show(value: Any) -> str:
    return _NONE if value is None else str(value)
