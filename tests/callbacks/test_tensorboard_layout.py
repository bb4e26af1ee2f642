"""The charts of TensorBoard's page "Custom Scalars" show what a run logs."""

import re

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_omni.callbacks.tensorboard_layout import write_layout

pytestmark = pytest.mark.xdist_group("workplace")


def test_each_chart_of_the_layout_shows_a_logged_scalar(trained):
    events = EventAccumulator(str(trained / "runs/debug/stage3"))
    events.Reload()
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    tags = events.Tags()["scalars"]
    charts = [chart for category in layout.category for chart in category.chart]
    assert len(charts) == 10
    for chart in charts:
        patterns = chart.multiline.tag
        assert any(re.search(p, tag) for p in patterns for tag in tags), chart.title
    assert 0.05 < events.Scalars("perf/peak_gb")[-1].value < 100
    assert "optim/lr_group1" in tags


@pytest.mark.parametrize("has_csv", [True, False])
def test_a_run_without_tensorboard_has_no_layout_and_goes_on(tmp_path, has_csv):
    logger = CSVLogger(str(tmp_path)) if has_csv else False
    trainer = L.Trainer(logger=logger, accelerator="cpu", default_root_dir=tmp_path)
    write_layout(trainer)
    assert not list(tmp_path.rglob("events.out*"))
