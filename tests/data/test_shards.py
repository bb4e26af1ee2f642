"""The stream of a task: every sample once an epoch, in an order of the seed, nothing read ahead."""

import io
import json
import tarfile

import pytest

from lightning_omni.data import shards
from lightning_omni.data.shards import SampleStream
from lightning_omni.errors import OmniError
from lightning_omni.types import Part, Sample, Turn

SIZES = (3, 5, 1, 4)
TOTAL = sum(SIZES)


def write_shard(path, keys):
    with tarfile.open(path, "w") as tar:
        for key in keys:
            sample = Sample(key, "tqa", (Turn("user", (Part("text", text="hi"),)),))
            raw = json.dumps(sample.to_json()).encode()
            header = tarfile.TarInfo(f"{key}.json")
            header.size = len(raw)
            tar.addfile(header, io.BytesIO(raw))


@pytest.fixture(params=["counted", "uncounted"])
def folder(request, tmp_path):
    names = [f"tqa-train-{i:06d}.tar" for i in range(len(SIZES))]
    for i, (name, size) in enumerate(zip(names, SIZES, strict=True)):
        write_shard(tmp_path / name, [f"k{i}-{j}" for j in range(size)])
    if request.param == "counted":
        counts = dict(zip(names, SIZES, strict=True))
        (tmp_path / "manifest.json").write_text(json.dumps({"samples": counts}))
    return tmp_path


def take(stream, count):
    return [next(stream).key for _ in range(count)]


def test_every_epoch_has_every_sample_once_in_another_order(folder):
    stream = SampleStream(folder, "tqa", "train", seed=1)
    epochs = [take(stream, TOTAL) for _ in range(3)]
    assert len(stream) == TOTAL
    assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(sorted(epochs[0]))}
    assert len(set(epochs[0])) == TOTAL
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_the_seed(folder):
    orders = [take(SampleStream(folder, "tqa", "train", seed=s), 2 * TOTAL) for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("count", [0, 1, 7, TOTAL, 3 * TOTAL + 2])
def test_skipping_is_taking_without_reading(folder, count):
    taken, skipped = (SampleStream(folder, "tqa", "train", seed=1) for _ in range(2))
    take(taken, count)
    skipped.skip(count)
    assert take(skipped, TOTAL + 3) == take(taken, TOTAL + 3)


def test_what_the_manifest_counts_is_not_read_before_its_turn(folder, monkeypatch):
    opened, read = [], shards.read_shard

    def counting(path, **options):
        opened.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(shards, "read_shard", counting)
    is_counted = (folder / "manifest.json").exists()
    take(SampleStream(folder, "tqa", "train", seed=1), 1)
    assert len(opened) == (1 if is_counted else len(SIZES) + 1)


def test_a_shard_that_lost_samples_is_named(tmp_path):
    write_shard(tmp_path / "tqa-train-000000.tar", ["a", "b", "c"])
    counts = {"tqa-train-000000.tar": 3}
    (tmp_path / "manifest.json").write_text(json.dumps({"samples": counts}))
    raw = bytearray((tmp_path / "tqa-train-000000.tar").read_bytes())
    raw[1024:1536] = b"\x01" * 512  # the second header
    (tmp_path / "tqa-train-000000.tar").write_bytes(raw)
    with pytest.raises(OmniError, match=r"000000\.tar' is damaged: 1 of 3 samples"):
        next(SampleStream(tmp_path, "tqa", "train", seed=1))
