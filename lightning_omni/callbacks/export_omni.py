"""Write the trained joint model as a folder that `Omni.from_pretrained` reads."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from lightning_omni.callbacks.dry_run import is_dry_run
from lightning_omni.callbacks.export import AveragesWhenSkipped
from lightning_omni.callbacks.run_record import RECORD, describe_computation, read_run_record
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.omni_data import OmniData
from lightning_omni.evaluation.provenance import git_commit, manifest_hash
from lightning_omni.generation.lengths import fit_length_rules
from lightning_omni.generation.model_folder import write_model_folder
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.sharding import gather_weights, is_sharded
from lightning_omni.nn.adapters import merge_adapters
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import FOLDER, fingerprint, resolve_pretrained

LENGTH_SAMPLES = 2000
_BACKBONE = "backbone."


class ExportOmni(AveragesWhenSkipped):
    """Exports to `<default_root_dir>/export` when training ends; averaged weights if it averages.

    Adapters are merged into the weights.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the folder on the first process; all processes gather a sharded model."""
        super().on_fit_end(trainer, pl_module)
        if is_dry_run(trainer):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, OmniData):
            return
        assert isinstance(pl_module, MaskedDiffusionModule)  # noqa: S101
        if is_sharded(pl_module):
            whole = gather_weights(pl_module)
        else:
            whole = trainer.strategy.lightning_module_state_dict()
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "export"
        starts = read_run_record(folder.parent / RECORD)
        write_export(folder, pl_module, data, whole, steps=trainer.global_step, starts=starts)


def write_export(
    folder: Path,
    module: MaskedDiffusionModule,
    data: OmniData,
    whole: dict[str, Tensor],
    *,
    steps: int,
    starts: list[dict[str, Any]],
) -> None:
    """Write a model's folder.

    Args:
        folder: Folder to write.
        module: Module whose network it is.
        data: Data it was trained on, set up.
        whole: Weights of the module by name; adapters are taken from the module itself.
        steps: Steps it was trained for.
        starts: Entries of the run's record.
    """
    weights = {
        name.removeprefix(_BACKBONE): value
        for name, value in whole.items()
        if name.startswith(_BACKBONE)
    }
    backbone = merge_adapters(module.backbone)
    if backbone is not module.backbone:
        weights = backbone.state_dict()
    seen = {task: data.samples(task, "train", limit=LENGTH_SAMPLES) for task in data.tasks}
    read = data.samples("tts", "train") if "tts" in data.tasks else []
    voices = {str(s.meta["voice"]) for s in read if s.meta.get("voice")}
    encoder = data.continuous_speech
    write_model_folder(
        folder,
        backbone,
        weights,
        data.template,
        fit_length_rules(chain.from_iterable(seen.values()), data.template),
        voices=sorted(voices),
        image_tokenizer=data.image_tokenizer,
        speech_tokenizer=data.speech_tokenizer,
        encoder_fingerprint=None if encoder is None else encoder.fingerprint(),
        file_tokenizers=data.file_tokenizers,
        card=_model_card(data, module, backbone, weights, steps, starts),
    )


def _weights_origin(init_from: str | list[str] | None) -> str:
    """Return where the initial weights are from; the bundled model is named by its checksum."""
    if not init_from:
        return "random weights"
    folder = resolve_pretrained(init_from)
    if folder == FOLDER:
        return f"the bundled model, sha256 {fingerprint(folder)[:16]}"
    return str(folder)


def _model_card(
    data: OmniData,
    module: MaskedDiffusionModule,
    backbone: Transformer,
    weights: dict[str, Tensor],
    steps: int,
    starts: list[dict[str, Any]],
) -> str:
    """Return the model card: architecture, training data, licences and use."""
    made_from = read_manifest(data.data)
    sources = made_from.get("sources", [])
    licences = made_from.get("train_licences") or {"not counted in the manifest of the data": "all"}
    buffers = {name for name, _ in backbone.named_buffers()}
    parameters = sum(value.numel() for name, value in weights.items() if name not in buffers)
    task = next(iter(data.tasks))
    lines = [
        "# A lightning_omni joint model",
        "",
        f"A bidirectional transformer of {parameters / 1e6:.1f} M parameters over text, speech and "
        "image tokens, trained by masked discrete diffusion; its tokenizers are in the folders "
        "beside this file.",
        "",
        f"- Tasks of the last stage: {', '.join(data.tasks)}",
        f"- Steps of the last stage: {steps}, batches of {data.rows} x {data.row_length} tokens",
        f"- Started from: {_weights_origin(module.init_from)}",
        f"- Data: `{data.data}`, preset {made_from.get('preset', 'own')}, manifest sha256 "
        f"{manifest_hash(data.data)[:16]}",
        *(f"- Trained: {line}" for line in describe_computation(starts)),
        f"- Seeds: data {data.seed}, noise {module.noise_seed}",
        f"- Code: commit {git_commit() or 'unknown'}",
        "",
        "## Use",
        "",
        "```",
        f"lightning_omni generate --model THIS_FOLDER --task {task} ...",
        "```",
        "",
        "The model covers its training data only; see the evaluation in this folder for results.",
        "",
        "## Data",
        "",
        "Licences of the training media:",
        "",
        *(f"- {licence}: {n}" for licence, n in licences.items()),
        "",
        "All sources of the data folder, test splits included:",
        "",
        *(f"- {s['name']} {s['version']}: {s['licence']}" for s in sources),
    ]
    return "\n".join(lines) + "\n"
