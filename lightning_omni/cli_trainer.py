"""LightningCLI for recipes: what every run has, and mistakes in one line."""

from __future__ import annotations

import signal
import warnings
import zipfile
from collections.abc import Collection
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_omni.argument_checks import check_within
from lightning_omni.callbacks.defaults import (
    RUN_DEFAULTS,
    TRAINER_DEFAULTS,
    RunDefault,
    make_run_defaults,
)
from lightning_omni.callbacks.preemption import Preemption
from lightning_omni.callbacks.resume import verify_checkpoints
from lightning_omni.callbacks.skip_non_finite import SkipNonFinite
from lightning_omni.callbacks.start_config import StartConfig
from lightning_omni.callbacks.watchdog import Watchdog
from lightning_omni.cli_devices import check_devices
from lightning_omni.cli_lightning_messages import hide_inapplicable_messages
from lightning_omni.cli_messages import add_suggestion, fold_message
from lightning_omni.cli_precision import precision_plugin_of_run, take_precision_rule
from lightning_omni.deferred_init import deferred_weights
from lightning_omni.devices import training_accelerator
from lightning_omni.errors import OmniError
from lightning_omni.launched_processes import watch_launched_processes
from lightning_omni.modules.checkpoint_file import folder_without_shards
from lightning_omni.modules.checkpoint_folder import finish_publication, is_checkpoint_folder
from lightning_omni.stop_signals import before_end
from lightning_omni.vocab import SHARED_SETTINGS

CHECKPOINT_WORDS = ("last", "best", "hpc", "registry")


class RecipeParser(LightningArgumentParser):
    """Reports mistakes as `OmniError`."""

    known: Collection[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Turn a parser's message into one line."""
        raise OmniError(add_suggestion(fold_message(message), self.known))


class OmniCLI(LightningCLI):
    """Adds what every run has, and links the vocabulary of the data into the model.

    Args:
        args: arguments of the command line, recipes inlined, with the verb if `run`.
        known: options to suggest for a misspelt one.
        run: whether to execute the verb.
        with_trainer: build the trainer too, which needs the devices that the recipe names.
        options: class whose arguments are accepted beside a recipe's.

    Raises:
        OmniError: If the recipe or an option is wrong.
    """

    def __init__(
        self,
        args: list[str],
        known: Collection[str],
        *,
        run: bool,
        with_trainer: bool,
        options: type[object] | None,
    ) -> None:
        self.known, self.with_trainer, self.options = known, with_trainer, options
        args, self.has_auto_precision = take_precision_rule(args)
        with warnings.catch_warnings():
            hide_inapplicable_messages()
            super().__init__(
                L.LightningModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                save_config_callback=StartConfig,
                trainer_defaults=TRAINER_DEFAULTS,
                args=args,
                run=run,
            )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that takes `-c` for `--config`."""
        parser = RecipeParser(**{**kwargs, "allow_abbrev": False})
        parser.known = self.known
        parser.add_argument("-c", "--config", action="config", help="Recipe; may be repeated.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options beside those of trainer, model and data."""
        parser.add_argument(
            "--run_defaults",
            type=list[RunDefault],
            default=list(RUN_DEFAULTS),
            help="Defaults to keep; each is replaced by a recipe's own.",
        )
        for name in SHARED_SETTINGS:
            parser.link_arguments(f"data.init_args.{name}", f"model.init_args.{name}")
        if self.options is not None:
            parser.add_class_arguments(self.options, instantiate=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what cannot work before anything is loaded."""
        super().parse_arguments(parser, args)
        verb = self.config.get("subcommand", "fit")
        given: Any = self.config.get(verb, self.config)
        check_checkpoint(given.get("ckpt_path"), is_needed=verb != "fit")
        check_strategy_reads_folders(given.get("ckpt_path"), given.trainer.strategy)
        check_seed(given.get("seed_everything"))
        for name in ("val_check_interval", "max_time"):
            check_duration(f"trainer.{name}", given.trainer.get(name))

    def _parse_ckpt_path(self) -> None:
        """Leave checkpoints to the trainer; what the user states wins over what they hold."""

    def before_instantiate_classes(self) -> None:
        """Add the logger and callbacks that the recipe does not name."""
        given: Any = self.config.get(str(self.subcommand), self.config)
        parser = self._parser(self.subcommand)
        if isinstance(given.trainer.accelerator, str):
            given.trainer.accelerator = training_accelerator(given.trainer.accelerator)
        if self.with_trainer:
            check_devices(given.trainer)
        plugin = precision_plugin_of_run(given.trainer, has_rule=self.has_auto_precision)
        if plugin is not None:
            rule = {"precision": None, "plugins": [plugin]}
            given.trainer.update(parser.parse_object({"trainer": rule}, given).trainer)
        defaults = make_run_defaults(given.trainer, given.model.class_path, given.run_defaults)
        parsed = parser.parse_object({"trainer": defaults}, given)
        given.trainer.update(parsed.trainer)

    def after_validate(self) -> None:
        """Refuse to end as if something had been measured."""
        self._check_was_measured("limit_val_batches")

    def after_test(self) -> None:
        """Refuse to end as if something had been measured."""
        self._check_was_measured("limit_test_batches")

    def _check_was_measured(self, option: str) -> None:
        if not self.trainer.logged_metrics:
            raise OmniError(
                f"`{self.subcommand}` had no batches, so nothing was measured; look at "
                f"trainer.{option} and at the splits of the data"
            )

    def instantiate_classes(self) -> None:
        """Build all objects; a model that devices will share without memory for its weights."""
        given: Any = self.config.get(str(self.subcommand), self.config)
        defers = self.with_trainer and is_sharded_strategy(given.trainer.strategy)
        with deferred_weights() if defers else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Return the trainer, with what makes every run reliable; None where it is not wanted.

        Raises:
            OmniError: If a setting of the trainer is wrong.
        """
        if not self.with_trainer:
            return None
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:  # Lightning's own checks of its arguments
            raise OmniError(f"trainer: {error}") from error
        given: Any = self.config.get(str(self.subcommand), self.config)
        verify_checkpoints(trainer, given.as_dict())
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for kind in (SkipNonFinite, Watchdog):
            if not any(isinstance(callback, kind) for callback in callbacks):
                callbacks.insert(len(callbacks) - len(trainer.checkpoint_callbacks), kind())
        callbacks.append(Preemption())  # behind what saves
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            before_end.append(lambda: launcher.kill(signal.SIGTERM))
            watch_launched_processes(launcher)
        return trainer


def check_checkpoint(path: str | None, *, is_needed: bool) -> None:
    """Refuse a checkpoint that is needed and not given, does not exist, or is another file.

    Raises:
        OmniError: If so.
    """
    if not path and is_needed:
        raise OmniError(
            "this verb measures trained weights; give --ckpt_path with a .ckpt of a run"
        )
    if not path or path in CHECKPOINT_WORDS:
        return
    if not is_needed:  # in training, whose save was killed
        finish_publication(Path(path))
    if is_checkpoint_folder(Path(path)):
        return
    if not Path(path).is_file():
        raise OmniError(f"no checkpoint at '{path}'; give a .ckpt file, last or best")
    if not zipfile.is_zipfile(path):
        raise OmniError(f"'{path}' is not a checkpoint; give a .ckpt file of a run")


def is_sharded_strategy(strategy: Any) -> bool:
    """Whether a recipe's strategy shares the weights out."""
    return "ShardedStrategy" in str(strategy)


def check_strategy_reads_folders(path: str | None, strategy: Any) -> None:
    """Refuse a checkpoint that is a folder where the strategy reads files only.

    Raises:
        OmniError: If so.
    """
    is_folder = path and path not in CHECKPOINT_WORDS and Path(path).is_dir()
    if is_folder and not is_sharded_strategy(strategy):
        raise folder_without_shards(path)


def check_seed(seed: int | bool | None) -> None:
    """Refuse a seed that the generators do not take; True and None draw or need none.

    Raises:
        OmniError: If so.
    """
    if seed is not None and not isinstance(seed, bool):
        check_within("seed_everything", seed, 0, 2**32 - 1)


def check_duration(name: str, value: Any) -> None:
    """Refuse a time, given by its parts, with other parts than hours and the like.

    Raises:
        OmniError: If it has some.
    """
    parts = value.as_dict() if isinstance(value, Namespace) else value
    try:
        timedelta(**parts) if isinstance(parts, dict) else None
    except TypeError as error:
        raise OmniError(f"{name} is {parts}, wanted a time such as {{hours: 1}}") from error
