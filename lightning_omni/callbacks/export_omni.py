"""Write the trained joint model as a folder that `Omni.from_pretrained` reads."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import lightning as L

from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.shards import read_samples
from lightning_omni.inference.folder import write_model_folder
from lightning_omni.inference.lengths import fit_lengths
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule

LENGTH_SAMPLES = 2000


class ExportOmni(L.Callback):
    """Exports to `<default_root_dir>/export` when training ends, averaged weights if there are."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder on the first process."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(data, OmniData):
            return
        assert isinstance(pl_module, MaskedDiffusionModule)  # noqa: S101
        seen = chain.from_iterable(
            islice(read_samples(data.folder, task, "train"), LENGTH_SAMPLES) for task in data.tasks
        )
        write_model_folder(
            Path(trainer.default_root_dir) / "export",
            pl_module.backbone,
            data.template,
            fit_lengths(seen, data.template.text),
            image_tokenizer=data.image_tokenizer,
            speech_tokenizer=data.speech_tokenizer,
            text_ranks=Path(data.text_ranks) if data.text_ranks else None,
            card=_card(data, trainer.global_step),
        )


def _card(data: OmniData, steps: int) -> str:
    return (
        "# A lightning_omni joint model\n\n"
        f"Trained for {steps} steps on `{data.data}` in the tasks {', '.join(data.tasks)}.\n\n"
        '```\nlightning_omni generate --model THIS_FOLDER --task t2i --text "a green whale"\n```\n'
    )
