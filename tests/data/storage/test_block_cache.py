"""Blocks on the disk: bounded, checked, whole, shared by processes."""

import errno
import multiprocessing
import os

import pytest
from servers import serving

from lightning_omni.data.storage.block_cache import BlockCache, cache_from_environment
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.errors import OmniError

MEGABYTE = 1 << 20


def kept(folder):
    return {path.name: path.stat().st_size for path in folder.glob("blocks/*/*")}


def test_the_size_is_bounded_and_the_oldest_blocks_go(tmp_path):
    cache = BlockCache(tmp_path, 1000)
    for n in range(30):
        assert cache.write(f"b{n}", bytes(96))
        cache.read("b0", 0, 1)
        assert sum(kept(tmp_path).values()) <= 1000
    assert "b0" in kept(tmp_path)
    assert "b29" in kept(tmp_path)
    assert "b1" not in kept(tmp_path)


def test_a_block_larger_than_the_cache_is_not_kept(tmp_path):
    assert not BlockCache(tmp_path, 10).write("x", bytes(96))


def test_a_damaged_block_is_absent_and_deleted(tmp_path):
    cache = BlockCache(tmp_path, 1000)
    cache.write("block", b"content")
    path = next(tmp_path.glob("blocks/*/*"))
    raw = bytearray(path.read_bytes())
    raw[2] ^= 1
    path.write_bytes(raw)
    assert cache.read("block", 0, 3) is None
    assert (cache.damaged, kept(tmp_path)) == (1, {})


def test_what_a_killed_download_left_is_deleted(tmp_path):
    cache = BlockCache(tmp_path, 1000)
    cache.write("block", bytes(96))
    part = tmp_path / "blocks/bl/other.77.part"
    part.write_bytes(bytes(50))
    os.utime(part, (0, 0))
    (tmp_path / "bytes").unlink()
    assert cache.read("other", 0, 1) is None
    cache.write("third", bytes(96))
    assert not part.exists()
    assert int((tmp_path / "bytes").read_text()) == 200


def _write_many(folder, number):
    cache = BlockCache(folder, 100 * 1000)
    for n in range(150):
        cache.write(f"{number}-{n}", bytes([number]) * 996)
        assert cache.read(f"{number}-{n}", 0, 9) in (None, bytes([number]) * 9)


def test_two_processes_keep_to_the_bound(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_many, args=(tmp_path, n)) for n in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sum(kept(tmp_path).values()) <= 100 * 1000


def test_a_full_disk_is_told_once_and_reading_goes_on(tmp_path, monkeypatch, caplog):
    def full(self, path, content):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(BlockCache, "_write_block_file", full)
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "y").write_bytes(b"more")
    with serving(tmp_path) as server:
        for name, content in (("x", b"content"), ("y", b"more"), ("x", b"content")):
            assert parse_location(f"{server.url}/{name}").read_range(0, 99) == content
    assert caplog.text.count("is full") == 1
    assert shared_url_reader().counts.uncached == 2


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OmniError, match=r"cannot write the cache.*LIGHTNING_OMNI_CACHE"):
        BlockCache(tmp_path / "file" / "below", 1000).write("x", b"y")


def test_no_cache_reads_all_the_same(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE_GB", "0")
    (tmp_path / "x").write_bytes(b"content")
    with serving(tmp_path) as server:
        assert parse_location(f"{server.url}/x").read_range(2, 3) == b"nte"
        assert parse_location(f"{server.url}/x").read_range(0, 3) == b"con"
        assert len(server.requests) == 2
        server.has_ranges = False
        (tmp_path / "y").write_bytes(b"content")
        with pytest.raises(OmniError, match="needs a cache"):
            parse_location(f"{server.url}/y").read_range(0, 3)
    assert kept(cache) == {}


def test_a_size_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE_GB", "much")
    with pytest.raises(OmniError, match="is 'much', wanted a number of gigabytes"):
        cache_from_environment()


def test_a_file_of_a_server_without_ranges_that_no_cache_can_hold_is_refused(
    tmp_path, monkeypatch, cache
):
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE_GB", "0.001")
    (tmp_path / "x").write_bytes(bytes(1_000_000))
    with serving(tmp_path) as server:
        server.has_ranges = False
        with pytest.raises(OmniError, match=r"all of it; set LIGHTNING_OMNI_CACHE_GB to 0\.0012"):
            parse_location(f"{server.url}/x").read_range(2, 3)
