"""What is encoded of a data folder, and what is refused."""

import json

import numpy as np
import pytest
import torch
from encoding_data import CPU, dialogue, make_data, settings_of, worker_of
from tar_files import write_tar

from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import WORK
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shard_index import read_index
from lightning_omni.data.shards import read_samples
from lightning_omni.errors import OmniError
from lightning_omni.jobs.progress import Progress
from lightning_omni.modalities import MODALITIES_BY_NAME, Modality
from lightning_omni.pretrained import FOLDER
from lightning_omni.tokenizers.base import FileTokenizer
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


def codes_of(folder, task, turn, modality):
    return [
        part.codes
        for sample in read_samples(folder, task, "train")
        for part in sample.turns[turn].parts
        if part.modality == modality
    ]


def test_a_medium_has_the_same_codes_in_every_shard_that_refers_to_it(data):
    codes = ensure_codes(settings_of(data), CPU)
    asked, drawn = codes_of(codes, "caption", 0, "image"), codes_of(codes, "t2i", 1, "image")
    assert drawn == [asked[0], asked[3]]
    assert len(set(asked)) == 6
    for shard in codes.glob("*.tar"):
        assert len(read_index(shard)) == read_manifest(codes)["samples"][shard.name]
        assert shard.with_name(shard.name + ".idx").is_file()


def test_pictures_are_encoded_at_the_sizes_in_use(data, monkeypatch):
    encoded, encode = [], ImageTokenizer.encode

    def counted(self, images):
        encoded.append(tuple(images.shape))
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", counted)
    codes = ensure_codes(settings_of(data, request_image_size=128), CPU)
    assert {len(c) for c in codes_of(codes, "caption", 0, "image")} == {256}
    assert {len(c) for c in codes_of(codes, "t2i", 1, "image")} == {64}
    assert sorted(encoded) == [(1, 3, 64, 64)] * 2 + [(3, 3, 128, 128)] * 2
    assert read_manifest(codes)["request_image_columns"] == 16


def test_the_users_speech_has_its_features_beside_the_sample(data):
    encoder = SpeechFeatureEncoder(torch.nn.Identity())
    codes = ensure_codes(settings_of(data, continuous_speech=encoder), CPU)
    for sample in read_samples(codes, "asr", "train"):
        (part,) = [p for p in sample.turns[0].parts if p.modality == "speech"]
        assert part.features.shape[1] == 560
        assert part.features.dtype == np.float16


def test_speech_that_is_codes_already_has_no_features(data):
    samples = [("a.json", dialogue("asr", [{"speech": [1, 2]}], [{"text": "x"}]))]
    write_tar(data / "tasks" / "asr-train-000007.tar", samples)
    encoder = SpeechFeatureEncoder(torch.nn.Identity())
    with pytest.raises(OmniError, match="sample 'a' holds speech as codes, but features need"):
        ensure_codes(settings_of(data, continuous_speech=encoder), CPU)
    assert (1, 2) in codes_of(ensure_codes(settings_of(data), CPU), "asr", 0, "speech")


class LengthTokenizer(FileTokenizer):
    name = "pose"
    num_codes = 99

    def encode(self, content):
        return [len(content), 1]

    def decode(self, codes):
        return bytes(codes[0])


@pytest.fixture
def poses(data, monkeypatch, tmp_path):
    """The folder of a tokenizer of another modality, of which the data has two shards."""
    home = FileTokenizer.__module__  # only classes of the package are built
    monkeypatch.setitem(MODALITIES_BY_NAME, "pose", Modality("pose", suffix=".pose"))
    monkeypatch.setattr(f"{home}.LengthTokenizer", LengthTokenizer, raising=False)
    monkeypatch.setattr(LengthTokenizer, "__module__", home)
    for n in (0, 1):
        write_tar(data / "media" / f"pose-train-{n:06d}.tar", [(f"p{n}.pose", b"x" * (n + 3))])
    samples = [
        (f"{n}.json", dialogue("svqa", [{"pose": f"p{n}"}], [{"text": "x"}])) for n in (0, 1)
    ]
    write_tar(data / "tasks" / "svqa-train-000000.tar", samples)
    return LengthTokenizer().save_pretrained(tmp_path / "tokenizer")


def test_files_of_a_further_modality_are_encoded(data, poses):
    codes = ensure_codes(settings_of(data, file_tokenizers={"pose": poses}), CPU)
    assert codes_of(codes, "svqa", 0, "pose") == [(3, 1), (4, 1)]
    assert read_manifest(codes)["spans"]["pose"] == 99


def test_a_modality_without_a_tokenizer_is_named(data, poses):
    with pytest.raises(OmniError, match="sample '0' holds pose, which has no tokenizer"):
        ensure_codes(settings_of(data), CPU)


def test_a_missing_medium_is_named_each_time_and_mended_data_are_finished(data, tmp_path):
    shard = data / "tasks" / "t2i-train-000001.tar"
    before = shard.read_bytes()
    write_tar(shard, [("a.json", dialogue("t2i", [{"text": "x"}], [{"image": "none"}]))])
    for _ in range(2):
        with pytest.raises(OmniError, match="sample 'a' refers to image 'none', not in the media"):
            ensure_codes(settings_of(data), CPU)
    shard.write_bytes(before)
    ensure_codes(settings_of(data), CPU)


def test_a_folder_without_tokenizers_or_data_is_refused(data, tmp_path):
    with pytest.raises(OmniError, match=r"no image tokenizer in '.*'; train it first"):
        ensure_codes(EncodingSettings(data, tmp_path, tmp_path))
    with pytest.raises(OmniError, match=r"no manifest.json in"):
        ensure_codes(EncodingSettings(tmp_path / "none", tmp_path, tmp_path))
    image = FOLDER / "image_tokenizer"
    with pytest.raises(OmniError, match="no speech tokenizer"):
        ensure_codes(EncodingSettings(data, image, tmp_path))


@pytest.mark.parametrize("when", ["before a worker", "after it"])
def test_changed_shards_are_refused(data, when):
    begun = worker_of(settings_of(data))
    begun.agree_on_plan()
    changed = data / "media" / "speech-train-000001.tar"
    if when == "before a worker":
        begun.close()
    changed.write_bytes(changed.read_bytes() + b"\0" * 512)
    with pytest.raises(OmniError, match=r"speech-train-000001.tar'.*the data were changed"):
        begun.run_job() if when == "after it" else ensure_codes(settings_of(data), CPU)
    begun.close()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"device": "another GPU"}, "begun on the device 'cpu', and this process computes on 'ano"),
        ({"computation": {"image": "bfloat16"}}, "begun with .*float32.*computes with .*bfloat16"),
    ],
)
def test_devices_and_number_formats_are_not_mixed(data, changed, sentence, monkeypatch):
    begun = worker_of(settings_of(data))
    begun.agree_on_plan()
    begun.close()
    facts = begun.job.tokenizers.describe_computation() | changed
    home = "lightning_omni.data.encoding.loaded_tokenizers.LoadedTokenizers.describe_computation"
    monkeypatch.setattr(home, lambda self: facts)
    with pytest.raises(OmniError, match=sentence):
        ensure_codes(settings_of(data), CPU)


def test_a_plan_of_another_version_is_refused(data):
    begun = worker_of(settings_of(data))
    begun.agree_on_plan()
    begun.close()
    (plan,) = begun.job.work.glob("plan-*.json")
    plan.rename(plan.with_name("plan-other.json"))
    with pytest.raises(OmniError, match="begun by another version; delete it"):
        ensure_codes(settings_of(data), CPU)


def test_a_shard_that_changed_after_it_was_written_is_written_again(data):
    worker = worker_of(settings_of(data))
    finish = worker.job.finish

    def damage():
        path = worker.job.folder / "asr-train-000000.tar"
        path.write_bytes(path.read_bytes().replace(b"it is 0-0", b"it is 0-9"))
        finish()

    worker.job.finish = damage
    with pytest.raises(OmniError, match=r"asr-train-000000.tar' has other contents than when"):
        worker.run_job()
    worker.close()
    codes = ensure_codes(settings_of(data), CPU)
    assert read_samples(codes, "asr", "train")[0].turns[1].parts[0].text == "it is 0-0"


def test_a_record_counts_only_with_its_output(data):
    worker = worker_of(settings_of(data))
    worker.agree_on_plan()
    step = worker.job.plan.phases()[0][0]
    worker.run_step(step)
    record = worker.job.folder / WORK / "finished" / f"{step.name}.json"
    assert json.loads(record.read_text())["count"] == 3
    worker.close()
    for spoil in (lambda: record.write_text("{"), (worker.job.folder / step.output).unlink):
        spoil()
        again = worker_of(settings_of(data))
        assert again.records.find(step) is None
        assert again.run_step(step)
        again.close()


def test_progress_is_a_line_with_rate_and_time_left(data, caplog):
    caplog.set_level("INFO")
    worker = worker_of(settings_of(data))
    worker.agree_on_plan()
    steps = worker.job.plan.phases()[0][:2]
    progress = Progress(worker.records, worker.job.names)
    progress.is_terminal, progress.every_s = False, 0.0
    progress.begin_phase(steps)
    worker.job.on_progress = progress.add_count
    worker.run_step(steps[0])
    progress.show_if_due()
    progress.end_phase()
    worker.close()
    line = caplog.messages[-1]
    assert line.startswith("encoding: 1 of 2 media shards, ")
    assert "media/s here" in line
    assert line.endswith("s left")


NOT_LISTED = {"missing": "lacks", "surplus": "holds", "cut": "has 0 bytes but the manifest lists"}


@pytest.mark.parametrize("change", NOT_LISTED)
def test_shards_that_the_manifest_does_not_list_are_refused(data, change):
    shards = sorted(data.glob("*/*.tar"))
    listed = [
        {"path": str(p.relative_to(data)), "bytes": p.stat().st_size, "samples": 3} for p in shards
    ]
    if change == "surplus":
        name, listed = listed[-1]["path"], listed[:-1]
    else:
        name = listed[-1]["path"]
        shards[-1].write_bytes(b"") if change == "cut" else shards[-1].unlink()
    (data / "manifest.json").write_text(json.dumps({"preset": "none", "shards": listed}))
    with pytest.raises(OmniError, match=NOT_LISTED[change]) as raised:
        ensure_codes(settings_of(data), CPU)
    assert name.rpartition("/")[2] in str(raised.value)
    assert not list(data.glob("codes/*/manifest.json"))


def test_a_folder_may_have_any_name(tmp_path):
    data = make_data(tmp_path / "run#1?%20x", shards=1)
    assert read_manifest(ensure_codes(settings_of(data), CPU))["samples"]
    assert [path.name for path in tmp_path.iterdir()] == ["run#1?%20x"]
