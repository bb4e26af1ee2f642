"""Write a trained tokenizer as a folder."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from lightning_omni.tokenizers.base import Tokenizer


class ExportTokenizer(L.Callback):
    """Exports `pl_module.tokenizer` to `<default_root_dir>/export` when training ends."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder on the first process."""
        tokenizer = pl_module.tokenizer
        assert isinstance(tokenizer, Tokenizer)  # noqa: S101
        if trainer.is_global_zero:
            tokenizer.save_pretrained(Path(trainer.default_root_dir) / "export")
