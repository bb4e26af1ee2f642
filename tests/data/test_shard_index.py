"""The index of a shard gives every sample's bytes, and notices when they change."""

import tarfile

import numpy as np
import pytest
from tar_files import write_tar

from lightning_omni.data.shard_index import (
    StoredIndex,
    build_index,
    index_path,
    parse_members,
    read_index,
    write_index,
)
from lightning_omni.data.shards import read_shard
from lightning_omni.errors import OmniError

LONG = "k" * 120


@pytest.fixture
def tar(tmp_path):
    files = [
        ("a.json", b"{}"),
        ("a.u2", b"x" * 700),
        ("b.json", b""),
        (f"{LONG}.0.npy", b"y" * 513),
    ]
    return write_tar(tmp_path / "x-train-000000.tar", files)


def samples(tar, index):
    raw = tar.read_bytes()
    rows = zip(index.offsets, index.sizes, index.checksums, strict=True)
    return [parse_members(raw[o : o + n], tar, checksum=c) for o, n, c in rows]


def test_the_index_gives_the_samples_that_the_streaming_reader_gives(tar):
    index = write_index(tar)
    assert samples(tar, index) == list(read_shard(tar))
    stored = read_index(tar)
    for name in ("offsets", "sizes", "checksums"):
        assert np.array_equal(getattr(stored, name), getattr(index, name))
    assert index.tar_bytes == tar.stat().st_size


def test_a_shard_without_an_index_is_scanned(tar):
    assert len(read_index(tar)) == 3
    assert not index_path(tar).exists()


def test_an_empty_shard_has_no_samples(tmp_path):
    assert len(write_index(write_tar(tmp_path / "x-train-000000.tar", []))) == 0


def test_changed_bytes_are_noticed(tar):
    index = write_index(tar)
    raw = bytearray(tar.read_bytes())
    raw[512 + 512 + 512 + 3] ^= 1  # within the codes of `a`
    tar.write_bytes(raw)
    with pytest.raises(OmniError, match=r"x-train-000000\.tar' is damaged"):
        samples(tar, index)


def test_an_index_of_another_tar_is_refused(tar):
    write_index(tar)
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(OmniError, match="its index was made of"):
        read_index(tar)


def test_a_part_of_an_index_is_read_alone(tar):
    whole = write_index(tar)
    stored = StoredIndex(tar)
    assert len(stored) == 3
    part = stored.read_part(1, 3)
    assert part.offsets.tolist() == whole.offsets[1:].tolist()
    assert part.checksums.tolist() == whole.checksums[1:].tolist()


@pytest.mark.parametrize("content", [b"", b"no index", b"\x93NUMPY", b"\x93NUMPY" + b"x" * 146])
def test_a_damaged_index_is_named(tar, content):
    index_path(tar).write_bytes(content)
    with pytest.raises(OmniError, match=r"\.idx' is no index of a shard"):
        read_index(tar)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([("../a.json", b"")], "holds the key"),
        ([("a", b"")], "holds the key 'a'"),
        ([("a.json", b""), ("b.json", b""), ("a.u2", b"")], "'a' twice"),
    ],
)
def test_odd_members_are_named(tmp_path, files, found):
    with pytest.raises(OmniError, match=found):
        build_index(write_tar(tmp_path / "x-train-000000.tar", files))


def test_a_link_is_refused(tmp_path):
    path = tmp_path / "x-train-000000.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(OmniError, match="not a plain file"):
        build_index(path)


@pytest.mark.parametrize("cut", [1, 600, 1500])
def test_a_cut_tar_is_refused(tar, cut):
    raw = tar.read_bytes()
    tar.write_bytes(raw[: len(raw) - len(raw) % 10240 - 10240 + cut] if cut == 1 else raw[:cut])
    with pytest.raises(OmniError, match="not a readable tar"):
        build_index(tar)
