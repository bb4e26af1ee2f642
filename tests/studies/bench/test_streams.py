"""Streams of several libraries give the same samples and are measured alike."""

import gc
import importlib.util
import json

import pytest
from tar_files import write_tar

from lightning_omni.data.shard_index import write_index
from lightning_omni.studies.bench import streams
from lightning_omni.studies.bench.streams import STREAMS, compare_streams, copy_to_mosaicml


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        files = [(f"k{shard}-{i}.json", json.dumps([shard, i]).encode()) for i in range(20)]
        write_index(write_tar(tmp_path / f"tqa-train-{shard:06d}.tar", files))
    return tmp_path


# WebDataset leaves the shards open that it has not read to the end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [name for name in STREAMS if name != "mosaicml"])
def test_a_stream_goes_on_behind_the_samples_it_is_told(folder, name):
    first = STREAMS[name](folder, "tqa", 0)
    seen = [next(first) for _ in range(60)]
    assert len(set(seen)) == 60
    if name == "ours":  # webdataset's buffer draws anew in each process
        later = STREAMS[name](folder, "tqa", 25)
        assert [next(later) for _ in range(35)] == seen[25:]
    first.close()
    gc.collect()


@pytest.mark.skipif(importlib.util.find_spec("streaming") is None, reason="mosaicml-streaming")
def test_the_copy_holds_the_same_samples(folder, tmp_path):
    copy_to_mosaicml(folder, "tqa", tmp_path / "mds")
    stream = STREAMS["mosaicml"](tmp_path / "mds", "tqa", 0)
    assert len({next(stream) for _ in range(60)}) == 60


def test_the_table_has_a_line_for_each_stream_and_start(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    measured = {"first_s": 0.5, "samples_per_s": 1234.0, "memory_mb": 2.0, "peak_mb": 9.0}
    monkeypatch.setattr(streams, "_measure_in_process", lambda *_: measured)
    table = compare_streams(folder, "tqa", starts=[0, 7], samples=5).splitlines()
    assert [line.split()[0] for line in table[1:]] == ["ours", "webdataset"] * 2
    assert table[1].split()[1:] == ["0", "0.500", "1,234", "2.0", "9.0"]


def test_a_stream_is_measured_in_a_process_of_its_own(folder):
    found = streams._measure_in_process("ours", folder, "tqa", 5, 30)
    assert set(found) == {"first_s", "samples_per_s", "memory_mb", "peak_mb"}
    assert 0 < found["memory_mb"] < found["peak_mb"]
    assert found["samples_per_s"] > 0
