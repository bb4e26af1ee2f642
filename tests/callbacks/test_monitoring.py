"""What a debug run leaves in its TensorBoard events."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_omni.data.tasks import TASKS_BY_NAME

pytestmark = pytest.mark.xdist_group("workplace")


@pytest.fixture(scope="module")
def events(trained):
    found = EventAccumulator(str(trained / "runs/debug/stage3"))
    found.Reload()
    return found


def test_losses_are_logged_per_modality_task_and_mask_ratio(events):
    tags = set(events.Tags()["scalars"])
    assert {f"train_loss_unweighted/{m}" for m in ("text", "speech", "image")} <= tags
    assert {t for t in tags if t.startswith("train_loss_t_image/bin")}
    tasks = {t.split("/")[1] for t in tags if t.startswith("val_loss_task/")}
    assert tasks == {name for name in TASKS_BY_NAME if name != "chat"}


def test_throughput_and_data_are_logged(events):
    tags = set(events.Tags()["scalars"])
    assert {"perf/tokens_per_s", "perf/data_wait_s", "data/packing_efficiency"} <= tags
    assert {"optim/grad_norm", "optim/lr"} <= tags
    packed = events.Scalars("data/packing_efficiency")
    assert all(0 < event.value <= 1 for event in packed)


def test_pictures_sound_and_text_are_logged_and_nothing_failed(events):
    tags = events.Tags()
    assert "denoise/image_strip" in tags["images"]
    assert "samples/t2i/real_then_generated" in tags["images"]
    assert "samples/caption/text/text_summary" in tags["tensors"]
    assert all(event.value == 0 for event in events.Scalars("monitor/failures"))
