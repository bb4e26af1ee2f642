"""The word `auto-bf16` in `trainer.precision`, which gives way to a later one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lightning_omni.callbacks.precision_plugin import AUTO, PRECISION_RULE, take_rule_from_recipe

_CONFIG, _OPTION = "--config=", "--trainer.precision"
_PLUGINS = "--trainer.plugins"


def take_precision_rule(args: Sequence[str]) -> tuple[list[str], bool]:
    """Return arguments without the rule of mixed precision, and whether it is to be used.

    Recipes select it by `precision: auto-bf16`, older recipes by the plugin. The last setting of
    precision wins, whether from a recipe or the command line.

    Args:
        args: arguments with recipes as JSON behind `--config=`.
    """
    kept: list[str] = []
    is_auto, rest = False, iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg.startswith(_CONFIG + "{"):
            recipe = json.loads(arg.removeprefix(_CONFIG))
            asked = take_rule_from_recipe(recipe.get("trainer"))
            is_auto = is_auto if asked is None else asked
            kept.append(_CONFIG + json.dumps(recipe))
        elif name in (_OPTION, _PLUGINS):
            value = value if equals else next(rest, "")
            is_auto = name == _OPTION and value == AUTO
            kept += [] if is_auto else [f"{name}={value}"]
        else:
            kept.append(arg)
    return kept, is_auto


def precision_plugin_of_run(trainer: Any, *, has_rule: bool) -> dict[str, Any] | None:
    """Return the precision plugin of a run as in a recipe; None leaves it to Lightning.

    `bf16-mixed` is the plugin's, too, unless a sharded strategy casts by itself.

    Args:
        trainer: settings of the trainer.
        has_rule: whether the machine chooses.
    """
    replicates = trainer.strategy is None or str(trainer.strategy).startswith(("auto", "ddp"))
    is_mixed = trainer.precision == "bf16-mixed" and replicates and not trainer.plugins
    if not (has_rule or is_mixed):
        return None
    return {"class_path": PRECISION_RULE, "init_args": {"always": not has_rule}}
