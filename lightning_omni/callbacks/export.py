"""Write a trained tokenizer as a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from lightning_omni.callbacks.dry_run import is_dry_run
from lightning_omni.callbacks.ema import EMA
from lightning_omni.callbacks.run_record import RECORD
from lightning_omni.callbacks.skip_non_finite import trained_weights
from lightning_omni.modules.finite_weights import check_weights_are_finite
from lightning_omni.modules.sharding import gather_weights, is_sharded
from lightning_omni.tokenizers.base import Tokenizer

_TOKENIZER = "tokenizer."


class AveragesWhenSkipped(L.Callback):
    """Puts averaged weights into the module when a run is resumed that was already complete.

    Lightning skips training then, and with it the end of training, where averaging does this.
    """

    has_trained = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that training is not skipped."""
        self.has_trained = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the averages if training was skipped.

        Raises:
            OmniError: If weights are not finite.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA | WeightAveraging) and not self.has_trained:
                callback.on_train_end(trainer, pl_module)
        check_weights_are_finite(trained_weights(trainer, pl_module), purpose="export")


class ExportTokenizer(AveragesWhenSkipped):
    """Exports `pl_module.tokenizer` to `<default_root_dir>/export` when training ends."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder on the first process; all processes gather a sharded tokenizer."""
        super().on_fit_end(trainer, pl_module)
        if is_dry_run(trainer):
            return
        tokenizer = pl_module.tokenizer
        assert isinstance(tokenizer, Tokenizer)  # noqa: S101
        weights = None
        if is_sharded(pl_module):
            weights = {
                name.removeprefix(_TOKENIZER): value
                for name, value in gather_weights(pl_module).items()
                if name.startswith(_TOKENIZER)
            }
        if trainer.is_global_zero:
            root = Path(trainer.default_root_dir)
            tokenizer.save_pretrained(root / "export", weights)
            if (root / RECORD).is_file():
                shutil.copyfile(root / RECORD, root / "export" / RECORD)
