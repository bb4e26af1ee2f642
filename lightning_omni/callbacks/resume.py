"""What a run goes on from, and what it takes from there: Lightning's restore, checked and said."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn

from lightning_omni.callbacks.checkpoint_keepers import (
    adapt_keeper_state,
    find_keepers,
    needed_paths,
    own_last_checkpoint,
)
from lightning_omni.callbacks.checkpoint_names import CheckpointNames, Kept, remove_all
from lightning_omni.callbacks.first_process import make_host_group, on_first_process
from lightning_omni.callbacks.newest_checkpoint import find_newest_valid, look_at_checkpoint
from lightning_omni.callbacks.recipe_differences import (
    changes_network,
    changes_optimizer_class,
    describe_differences,
    find_differences,
    flatten_recipe,
)
from lightning_omni.callbacks.restored_optimizers import OptimizerSettings, check_same_optimizer
from lightning_omni.callbacks.same_weights import check_same_weights
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.errors import OmniError
from lightning_omni.modules.checkpoint_file import RUN, CheckpointFileIO, now, refuse_other_contents
from lightning_omni.modules.sharding import ShardedStrategy

log = logging.getLogger(__name__)

LAST = "last"
_INSTEAD = "start a new run from the weights (model.init_from)"
_PROCESSES = "processes"


def verify_checkpoints(trainer: L.Trainer, recipe: Mapping[str, Any] | None = None) -> None:
    """Let a trainer write checkpoints whole, and check those that it reads.

    Args:
        trainer: Trainer, changed in place.
        recipe: Settings of its recipe, which its checkpoints hold.
    """
    trainer._checkpoint_connector = CheckedResume(trainer, recipe or {})
    strategy = trainer.strategy
    if isinstance(strategy.checkpoint_io, _WrappingCheckpointIO):
        strategy.checkpoint_io.checkpoint_io = CheckpointFileIO()
    elif type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckpointFileIO()


class CheckedResume(_CheckpointConnector):
    """Restores a run from a checkpoint that is whole, and from the same recipe where it has to be.

    `last` is the newest valid checkpoint of the folders that the run writes to. What the recipe
    states now wins over the checkpoint; each difference is said, and refused where the checkpoint
    has no meaning with it.

    Takes the place of Lightning's connector.

    Args:
        trainer: Trainer.
        recipe: Settings of its recipe.
    """

    def __init__(self, trainer: L.Trainer, recipe: Mapping[str, Any]) -> None:
        super().__init__(trainer)
        self.settings = flatten_recipe(recipe)
        self.begun = ""
        self._is_last = False
        self._adapted: list[Any] = []
        self._group: Any = None

    # which checkpoint

    def _parse_ckpt_path(
        self, state_fn: Any, ckpt_path: Any, model_provided: bool, model_connected: bool
    ) -> Any:
        """Leave `last` to `resume_start`, when the processes can talk to each other.

        That of checkpoints at a URL is found by Lightning, and not checked.
        """
        all_keepers = self.trainer.checkpoint_callbacks
        is_remote = any("://" in str(getattr(one, "dirpath", "")) for one in all_keepers)
        if ckpt_path == LAST and not is_remote:
            return ckpt_path
        if ckpt_path == "best" and not getattr(
            self.trainer.checkpoint_callback, "best_model_path", ""
        ):
            raise OmniError(
                "which checkpoint is the best one is known only while its run lasts; give "
                "--ckpt_path with a file of its checkpoints, or last"
            )
        return super()._parse_ckpt_path(state_fn, ckpt_path, model_provided, model_connected)

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Load a checkpoint after a look at all of it.

        Raises:
            OmniError: If it is damaged, or `last` finds none that is valid.
        """
        self._group = make_host_group()
        self._is_last = checkpoint_path == LAST
        if self._is_last:
            keepers, is_fit = find_keepers(self.trainer), self._is_fit()
            checkpoint_path, said = find_newest_valid(keepers, self._group, is_fit=is_fit)
            self._say(said)
        elif checkpoint_path and "://" not in str(checkpoint_path):
            self._refuse_damaged(Path(checkpoint_path))
        elif self._is_fit():
            self._say_what_is_left_alone()
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy) and checkpoint_path:
            strategy.checked_checkpoint = Path(checkpoint_path)
        super().resume_start(checkpoint_path, weights_only)
        if checkpoint_path:
            refuse_other_contents(checkpoint_path, self._loaded_checkpoint)
        about = self._loaded_checkpoint.get(RUN, {})
        self.begun = about.get("begun") or on_first_process(now, self._group)
        if self._loaded_checkpoint:
            self._compare_settings(about)

    def _refuse_damaged(self, path: Path) -> None:
        damage = look_at_checkpoint(path, self._group).damage
        if damage:
            raise OmniError(
                f"the checkpoint '{path}' is damaged ({damage}); give another one, --ckpt_path "
                "last for the newest valid one, or copy it again"
            )

    # what is taken from it

    def _compare_settings(self, about: Mapping[str, Any]) -> None:
        """Say what this start states otherwise, and refuse what the weights do not fit.

        Raises:
            OmniError: If the network or the optimizer is another one.
        """
        if "settings" not in about:
            if self.settings:
                self._say("the checkpoint does not hold its settings, so they are not compared")
            return
        before = {**json.loads(about["settings"]), _PROCESSES: about[_PROCESSES]}
        after = {**self.settings, _PROCESSES: self.trainer.world_size}
        if not self.settings:
            return
        differing = find_differences(before, after)
        networks = [name for name in differing if changes_network(name, before, after)]
        if networks:
            raise OmniError(
                f"the checkpoint '{self._ckpt_path}' is of another model than the recipe's: "
                f"{describe_differences(networks, before, after)}; restore them, or {_INSTEAD}"
            )
        if not self._is_fit():
            return
        optimizers = [name for name in differing if changes_optimizer_class(name)]
        if optimizers:
            raise OmniError(
                f"the checkpoint '{self._ckpt_path}' has the state of another optimizer: "
                f"{describe_differences(optimizers, before, after)}; restore it, or {_INSTEAD}"
            )
        if differing:
            self._say(
                "settings that differ from the checkpoint's, of which those of this start hold: "
                f"{describe_differences(differing, before, after)}"
            )

    def restore_model(self) -> None:
        """Load the weights.

        Raises:
            OmniError: If they are of another model than the recipe's.
        """
        if not self._loaded_checkpoint:
            return
        module = self.trainer.lightning_module
        adapted = copy_containers(self._loaded_checkpoint)
        module.on_load_checkpoint(adapted)
        if module.strict_loading:
            check_same_weights(
                str(self._ckpt_path), adapted["state_dict"], module.state_dict(), _INSTEAD
            )
        super().restore_model()

    def restore_datamodule(self) -> None:
        """Restore the position in the data.

        Raises:
            OmniError: If the checkpoint has none.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        name = type(data).__qualname__
        goes_on = self._loaded_checkpoint and self._is_fit() and isinstance(data, ResumableData)
        if goes_on and name not in self._loaded_checkpoint:
            raise OmniError(
                f"the checkpoint '{self._ckpt_path}' has no position in the data ({name}), so "
                f"samples would be repeated; give another checkpoint, or {_INSTEAD}"
            )
        super().restore_datamodule()

    def restore_callbacks(self) -> None:
        """Restore callbacks; those that write checkpoints know the run's folder as it is now."""
        states = self._loaded_checkpoint.get("callbacks", {})
        keepers = find_keepers(self.trainer)
        self._adapted = [
            one for one in keepers if adapt_keeper_state(states, one, Path(str(self._ckpt_path)))
        ]
        super().restore_callbacks()
        for keeper in keepers if self._loaded_checkpoint and self._is_fit() else []:
            own_last_checkpoint(keeper)

    def restore_optimizers_and_schedulers(self) -> None:
        """Restore the optimizers' states, with the settings of this start.

        Raises:
            OmniError: If they are states of other optimizers.
        """
        if not self._loaded_checkpoint:
            return
        states = self._loaded_checkpoint.get("optimizer_states")
        if not states:
            raise OmniError(
                f"'{self._ckpt_path}' holds weights alone, from which no run goes on; give a "
                f"checkpoint with save_weights_only: false, or {_INSTEAD}"
            )
        optimizers = self.trainer.optimizers
        check_same_optimizer(str(self._ckpt_path), states, optimizers, _INSTEAD)
        wanted = OptimizerSettings(optimizers, self.trainer.lr_scheduler_configs)
        super().restore_optimizers_and_schedulers()
        wanted.apply()

    def dump_checkpoint(self, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint, with the settings of its run."""
        checkpoint: dict[str, Any] = super().dump_checkpoint(weights_only)
        checkpoint[RUN] = {
            "begun": self.begun,
            "settings": json.dumps(self.settings),
            _PROCESSES: self.trainer.world_size,
        }
        return checkpoint

    # what is deleted

    def resume_end(self) -> None:
        """Delete what killed saves left, when all processes have read what they need."""
        step = self._loaded_checkpoint.get("global_step")
        super().resume_end()
        if not self._is_fit() or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.trainer.is_global_zero:
            self._sweep(step)
        if self._is_last:
            self._ckpt_path = None  # it need not be kept for longer than others

    def _sweep(self, step: int | None) -> None:
        """Delete what killed saves left, if the run goes on then stale checkpoints, too."""
        needed = {path for keeper in find_keepers(self.trainer) for path in needed_paths(keeper)}
        all_names = self._names()
        for keeper, names in zip(find_keepers(self.trainer), all_names, strict=True):
            doomed = names.list_leftovers()
            knows_its_own = keeper in self._adapted  # not with another monitor, say
            if step is not None and self._ckpt_path is not None and knows_its_own:
                kept = Kept({*needed, Path(self._ckpt_path)}, self.begun, step)
                stale = names.list_stale(kept)
                doomed += [p for p in stale if not _is_kept_by_another(p, names, all_names)]
            if gone := remove_all(doomed):
                shown = ", ".join(f"'{path}'" for path in gone)
                self._say(f"deleted what earlier starts of the run left: {shown}")

    def _say_what_is_left_alone(self) -> None:
        """Say that there are checkpoints, when a run begins without one."""
        there = on_first_process(
            lambda: [str(path) for names in self._names() for path in names.list_checkpoints()],
            self._group,
        )
        if there:
            self._say(
                f"there are checkpoints of an earlier run, such as '{there[-1]}', and this one "
                "begins at step 0; --ckpt_path last goes on"
            )

    def _is_fit(self) -> bool:
        return bool(self.trainer.state.fn == TrainerFn.FITTING)

    def _names(self) -> list[CheckpointNames]:
        return [CheckpointNames(keeper) for keeper in find_keepers(self.trainer)]

    def _say(self, message: str) -> None:
        if self.trainer.is_global_zero:
            log.warning("%s", message)


def copy_containers(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a checkpoint's dictionaries and lists, with the same tensors."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: copied(inner) for key, inner in value.items()}
        return [copied(inner) for inner in value] if isinstance(value, list) else value

    found: dict[str, Any] = copied(checkpoint)
    return found


def _is_kept_by_another(
    path: Path, names: CheckpointNames, all_names: Sequence[CheckpointNames]
) -> bool:
    """Whether another callback keeps all checkpoints of such names in the folder."""
    others = [one for one in all_names if one is not names and one.folder == names.folder]
    return any(one.keeps_all and one.is_ours(path) for one in others)
