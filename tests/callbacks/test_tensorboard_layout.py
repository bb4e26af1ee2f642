"""TensorBoard's pages "Custom Scalars" and "HParams" show what a run logs."""

import json
import math
import re
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_omni.callbacks.hyper_parameters import METRICS, write_hyper_parameters
from lightning_omni.callbacks.run_record import describe_computation, read_run_record
from lightning_omni.callbacks.tensorboard_layout import LAYOUT, TOKENIZER_LAYOUT

pytestmark = pytest.mark.xdist_group("workplace")

TERMS = {  # of the loss, that are logged under `train_loss`
    "image_tokenizer": {
        *("l1", "l2", "commitment", "entropy", "perceptual", "adversarial", "critic"),
    },
    "speech_tokenizer": {"spectral", "commitment", "mel"},
}
RUNS = ["stage3", "image_tokenizer", "speech_tokenizer"]
OF_A_GPU = {"Model FLOPs utilization"}


def _events(trained, run):
    events = EventAccumulator(str(trained / "runs/debug" / run))
    events.Reload()
    return events


def _chart_patterns(events):
    """The patterns of every chart that the run's layout promises, by its title."""
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    return {chart.title: list(chart.multiline.tag) for chart in charts}


@pytest.mark.parametrize("run", RUNS)
def test_every_line_of_every_chart_is_logged(trained, run):
    events = _events(trained, run)
    tags, charts = events.Tags()["scalars"], _chart_patterns(events)
    layout = LAYOUT if run == "stage3" else TOKENIZER_LAYOUT
    assert list(charts) == [title for category in layout.values() for title in category]
    for title in charts.keys() - OF_A_GPU:
        for pattern in charts[title]:
            assert any(re.search(pattern, tag) for tag in tags), (title, pattern)
    assert 0.05 < events.Scalars("perf/peak_gb")[-1].value < 100
    assert "optim/lr_group1" in tags
    assert ("optim/lr_critic" in tags) == (run == "image_tokenizer")


@pytest.mark.parametrize("run", TERMS)
def test_every_term_of_a_tokenizer_s_loss_is_logged(trained, run):
    events = _events(trained, run)
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("train_loss/")]
    assert {tag.removeprefix("train_loss/") for tag in tags} == TERMS[run]
    for tag in tags:
        assert all(math.isfinite(event.value) for event in events.Scalars(tag))
    if run == "image_tokenizer":  # a critic is trained with the term that needs it
        of_critic, of_tokenizer = (
            [event.step for event in events.Scalars(f"train_loss/{name}")]
            for name in ("critic", "adversarial")
        )
        assert of_critic == of_tokenizer
        assert min(of_critic) > min(e.step for e in events.Scalars("train_loss/l1"))


def test_what_callbacks_log_stands_at_the_steps_of_the_losses(trained):
    """Not at those that a critic's optimizer counts, too: 12 for 7 updates, 5 with the critic."""
    events = _events(trained, "image_tokenizer")
    updates = len(events.Scalars("train/l1"))
    assert updates == 7
    for tag in ("perf/samples_per_s", "monitor/alerts"):
        assert max(event.step for event in events.Scalars(tag)) <= updates
    assert max(e.step for e in events.Images("reconstructions/real_then_decoded")) <= updates


def test_losses_and_accuracies_have_a_line_of_training_and_one_of_validation(trained):
    charts = _chart_patterns(_events(trained, "stage3"))
    for title in LAYOUT["Loss and accuracy"]:
        assert [p.partition("/")[0].partition("_")[0] for p in charts[title]] == ["^train", "^val"]


@pytest.mark.parametrize("run", RUNS)
def test_settings_stand_beside_the_final_metrics(trained, run):
    events = _events(trained, run)
    data = {
        tag: HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in events.summary_metadata.items()
        if tag.startswith("_hparams_")
    }
    given = data["_hparams_/session_start_info"].session_start_info.hparams
    assert given["model.optimizer.lr"].number_value == pytest.approx(1e-3)
    betas = "0.8, 0.99" if run == "speech_tokenizer" else "0.9, 0.95"
    assert given["model.optimizer.betas"].string_value == betas
    assert given["seed_everything"].number_value == 956
    assert "trainer.enable_progress_bar" not in given
    listed = data["_hparams_/experiment"].experiment.metric_infos
    assert tuple(m.name.tag for m in listed) == METRICS
    assert all(re.fullmatch("[a-z0-9_]+(/[a-z0-9_]+)+", name) for name in METRICS)
    metrics = set(METRICS) & set(events.Tags()["scalars"])
    wanted = {
        "stage3": {
            *(f"val_{kind}/{name}" for kind in ("acc", "nelbo") for name in ("text", "speech")),
            *("val/loss", "val_acc_task/tqa", "eval/tqa_test_iid/exact"),
        },
        "image_tokenizer": {"tokenizer/image/psnr_db", "tokenizer/image/usage"},
        "speech_tokenizer": {"tokenizer/speech/mel_l1", "tokenizer/speech/usage_q0"},
    }
    assert wanted[run] <= metrics
    for tag in metrics:  # each was logged at its own steps, and is not written again
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag


def test_a_run_without_a_recipe_writes_no_settings():
    write_hyper_parameters(SimpleNamespace(loggers=[], callbacks=[], is_global_zero=True))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_and_its_export_state_what_computed(trained, run):
    root = trained / "runs/debug" / run
    (start,) = read_run_record(root / "provenance.json")
    events = _events(trained, run)
    metadata = events.summary_metadata["_hparams_/session_start_info"]
    given = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    for name in {"device", "precision", "attention"} & start.keys():
        assert given[f"used.{name}"].string_value == start[name]
    assert ("attention" in start) == (run != "speech_tokenizer")
    if run != "stage3":
        assert read_run_record(root / "export/provenance.json") == [start]
        return
    (line,) = describe_computation([start])
    assert f"- Trained: {line}" in (root / "export/README.md").read_text()
    results = json.loads((root / "eval/results.json").read_text())
    assert (results["precision"], results["attention"]) == ("float32", "sdpa")
    codes = trained / "data/smoke/codes" / results["codes"]
    manifest = json.loads((codes / "manifest.json").read_text())
    assert manifest["device"] == "cpu"
    assert manifest["computation"] == {
        "image": {"precision": "float32", "attention": "sdpa"},
        "speech": {"precision": "float32"},
    }
