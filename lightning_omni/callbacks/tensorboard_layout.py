"""Arrange logged scalars as charts on TensorBoard's page "Custom Scalars"."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule

Layout = dict[str, dict[str, list[str | list[str]]]]
"""Category -> title of a chart -> its type and regular expressions of its tags."""


def _line_chart(*patterns: str) -> list[str | list[str]]:
    return ["Multiline", [f"^{pattern}$" for pattern in patterns]]


def _train_and_val_chart(name: str) -> list[str | list[str]]:
    return _line_chart(f"train{name}", f"val{name}")


# charts of both layouts are the same, as TensorBoard shows those of all runs on one page
_OPTIMIZATION = {
    "Learning rate": _line_chart("optim/lr(_critic)?(_group[0-9]+)?"),
    "Gradient norm before clipping": _line_chart("optim/grad_norm(_critic)?"),
}
_STEP = {
    "Seconds per step": _line_chart("perf/(data_wait|compute|forward|backward|update)_s"),
    "Peak memory, GB": _line_chart("perf/peak_gb"),
}

LAYOUT: Layout = {
    "Loss and accuracy": {
        "Loss": _train_and_val_chart("/loss"),
        "NELBO by modality, nats per token": _train_and_val_chart("_nelbo/.*"),
        "NELBO by task, nats per token": _train_and_val_chart("_nelbo_task/.*"),
        "Negative log-likelihood of masked tokens by modality": _train_and_val_chart(
            "_loss_unweighted/.*"
        ),
        "Negative log-likelihood of masked tokens by task": _train_and_val_chart("_loss_task/.*"),
        "Negative log-likelihood of masked tokens by mask ratio": _train_and_val_chart(
            "_loss_t_[a-z]+/bin[0-9]+"
        ),
        "Accuracy by modality": _train_and_val_chart("_acc/.*"),
        "Accuracy by task": _train_and_val_chart("_acc_task/.*"),
        "Accuracy by mask ratio": _train_and_val_chart("_acc_t_[a-z]+/bin[0-9]+"),
    },
    "Optimization": _OPTIMIZATION,
    "Speed": {
        "Tokens per second": _line_chart("perf/(useful_)?tokens_per_s"),
        **_STEP,
        "Model FLOPs utilization": _line_chart("perf/mfu"),
    },
}
"""Charts of a joint stage; those of what a device does not log stay empty."""

TOKENIZER_LAYOUT: Layout = {
    "Loss and reconstruction": {
        "Terms of the loss": _line_chart("train_loss/.*"),
        "Reconstruction": _line_chart("tokenizer/[a-z]+/(psnr_db|ssim|mel_l1)"),
    },
    "Codebooks": {
        "Share of codes in use": _line_chart("tokenizer/[a-z]+/usage(_q[0-9]+)?"),
        "Perplexity": _line_chart("tokenizer/[a-z]+/perplexity(_q[0-9]+)?"),
        "Codes out of use": _line_chart("tokenizer/[a-z]+/dead_codes(_q[0-9]+)?"),
    },
    "Optimization": _OPTIMIZATION,
    "Speed": {
        "Samples per second": _line_chart("perf/samples_per_s"),
        **_STEP,
    },
}
"""Charts of a run of a tokenizer."""


def write_layout(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Write the layout of a run to its TensorBoard, on the first process only."""
    layout = LAYOUT if isinstance(module, MaskedDiffusionModule) else TOKENIZER_LAYOUT
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars(layout)
