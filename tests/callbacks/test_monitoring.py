"""What a debug run leaves in its TensorBoard events."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_omni.tasks import TASKS_BY_NAME

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


def _cells(events, task):
    """The table of a task's first sample: request, reference and answer."""
    text = events.Tensors(f"samples/{task}/text/text_summary")[-1].tensor_proto.string_val[0]
    header, _, row = text.decode().split("\n")
    assert header == "| request | reference | answer |"
    return [cell.strip() for cell in row.strip("| ").split("|")]


def test_the_request_and_the_true_answer_stand_beside_the_answer(events):
    request, reference, answer = _cells(events, "t2i")
    assert request.startswith("a ")
    assert reference == answer == "[image]"
    request, reference, _ = _cells(events, "vqa")
    assert request.startswith("what")
    assert request.endswith("[image]")
    assert reference
    request, reference, answer = _cells(events, "sqa")
    assert request.startswith("[speech: ")
    assert reference.endswith(" [speech]")
    assert answer.endswith("[speech]")


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("asr", ["request"]),
        ("tts", ["answer", "reference"]),
        ("sqa", ["answer", "reference", "request"]),
    ],
)
def test_speech_is_logged_as_sound_and_as_spectrograms(events, task, names):
    tags = events.Tags()
    heard = sorted(t.rpartition("/0_")[2] for t in tags["audio"] if t.startswith(f"samples/{task}"))
    assert heard == names
    assert len(events.Audio(f"samples/{task}/0_{names[-1]}")) == 1 + (names[-1] == "answer")
    pictures = events.Images(f"samples/{task}/0_spectrograms")
    assert len(pictures) == 2  # of two evaluations
    assert pictures[0].width > 20


def test_accuracy_confusion_and_the_split_of_a_step_are_logged(events):
    tags = set(events.Tags()["scalars"])
    assert {t for t in tags if t.startswith("train_acc_t_image/bin")}
    assert {f"train_confusion/{m}" for m in ("text", "speech", "image")} <= tags
    parts = ["perf/forward_s", "perf/backward_s", "perf/update_s"]
    for whole, *split in zip(
        *(events.Scalars(name) for name in ["perf/compute_s", *parts]), strict=True
    ):
        assert all(part.value > 0 for part in split)
        assert sum(part.value for part in split) == pytest.approx(whole.value, rel=1e-3)


def test_the_order_of_commitment_and_a_text_with_masks_are_logged(events):
    tags = events.Tags()
    assert "denoise/commit_order" in tags["images"]
    assert "denoise/text/text_summary" in tags["tensors"]
    shown = events.Tensors("denoise/text/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert shown.startswith("| step | answer |")


def test_the_stage_ends_with_an_evaluation_of_what_it_exported(trained, events):
    results = json.loads((trained / "runs/debug/stage3/eval/results.json").read_text())
    assert {row["task"] for row in results["rows"]} == {"tqa", "vqa"}
    assert results["model"] == "runs/debug/stage3/export"
    assert {"eval/tqa_test_iid/exact", "eval/vqa_test_iid/exact"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_a_tokenizer_shows_what_it_leaves_of_real_media_and_where_its_time_goes(trained, kind):
    found = EventAccumulator(str(trained / f"runs/debug/{kind}_tokenizer"))
    found.Reload()
    tags = found.Tags()
    assert {"perf/samples_per_s", "perf/data_wait_s"} <= set(tags["scalars"])
    if kind == "image":
        assert tags["images"] == ["reconstructions/real_then_decoded"]
    else:
        assert {"reconstructions/0_real", "reconstructions/0_decoded"} <= set(tags["audio"])
        pair = found.Images("reconstructions/0_spectrograms")[0]
        assert (pair.width, pair.height) == (128, 160 + 2 + 160)  # 0.64 s
