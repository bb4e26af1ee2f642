"""Write down the recipe of each start of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from lightning_omni.recipe import next_config_name


class StartConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, and `config.start-2.yaml` at its second start.

    Lightning's callback, which writes one file over the other or refuses to, with other names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "overwrite": True})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write nothing yet: this start may be refused."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the recipe under the first free name."""
        if self.already_saved:
            return
        folder = trainer.log_dir  # for which processes wait for each other
        if trainer.is_global_zero and folder is not None:
            self.config_filename = next_config_name(Path(folder))
        super().setup(trainer, pl_module, "fit")
