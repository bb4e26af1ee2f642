"""A progress bar makes the host wait for a GPU at logged steps only."""

import ast
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.connectors.logger_connector import result

from lightning_omni import modules
from lightning_omni.callbacks import progress
from lightning_omni.callbacks.progress import BarMetrics, PlainProgress


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, x, index):
        loss = self.layer(x).square().mean()
        self.log("train/loss", loss.detach())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
@pytest.mark.parametrize(("device", "steps"), [("cuda", {4, 8, 12}), ("cpu", set(range(1, 13)))])
def test_metrics_are_read_at_logged_steps(tmp_path, monkeypatch, bar, device, steps):
    read, of = set(), progress.read_shown_metrics

    def note(trainer):
        read.add(trainer.global_step)
        return of(trainer)

    def told(metrics, trainer, module):  # the metrics are told the device
        found = SimpleNamespace(
            global_step=trainer.global_step,
            log_every_n_steps=trainer.log_every_n_steps,
            training=trainer.training,
            lightning_module=module,
            strategy=SimpleNamespace(root_device=torch.device(device)),
            callback_metrics=trainer.callback_metrics,
            loggers=[],
            progress_bar_metrics=trainer.progress_bar_metrics,
        )
        return of_device(metrics, found, module)

    of_device = BarMetrics.__call__
    monkeypatch.setattr(BarMetrics, "__call__", told)
    monkeypatch.setattr(progress, "read_shown_metrics", note)
    monkeypatch.setattr(result, "convert_tensors_to_scalars", None)  # no metric is read elsewhere
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=12,
        log_every_n_steps=4,
        callbacks=[bar(), PlainProgress()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.randn(24, 3), batch_size=2))
    assert read == steps
    shown = trainer.progress_bar_callback.get_metrics(trainer, trainer.lightning_module)
    assert shown["train/loss"] == trainer.callback_metrics["train/loss"]


def test_training_steps_log_nothing_to_the_bar_and_what_it_shows_without():
    told, logged = [], set()
    for path in Path(modules.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                names = [a.value for a in call.args[:1] if isinstance(a, ast.Constant)]
                if call.func.attr == "note_losses" and isinstance(call.args[0], ast.Dict):
                    keys = (k for k in call.args[0].keys if isinstance(k, ast.Constant))
                    logged |= {f"train_loss/{key.value}" for key in keys}
                if call.func.attr == "log" and names:
                    logged |= set(names)
                    told += [n for n in names if any(k.arg == "prog_bar" for k in call.keywords)]
    assert not [name for name in told if "train" in name]
    assert set(progress.SHOWN) <= logged
