"""Threads fetch the ranges of a pool before they are read; samples and their order stay."""

import threading
import time

import pytest
from folders import batches, numbers, write_folder
from servers import UNAVAILABLE, serving

from lightning_omni.data.storage import read_ahead as module
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.read_ahead import ReadAhead, shared_read_ahead
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.errors import OmniError


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data", shards=8, samples=32)


class Crowd:
    """Counts how many are inside at one time, each of them for a while."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def pass_through(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1


def test_requests_run_beside_each_other_and_each_is_sent_once(folder):
    with serving(folder) as server:
        crowd, next_fault = Crowd(), server.next_fault
        server.next_fault = lambda name: (crowd.pass_through(), next_fault(name))[1]
        found = numbers(batches(parse_location(server.url), count=32))
        names = list(server.requests)
    assert found == numbers(batches(folder, count=32))
    assert 1 < crowd.most <= module.THREADS + 1
    shards = [name for name in names if ".tar" in name]
    assert len(shards) <= 2 * 2 * 8 + 8  # size and block of shard and index; an index is looked for
    assert shared_url_reader().counts.ranges_ahead > 0


def test_faults_in_threads_are_retried_and_counted(folder):
    with serving(folder, faults={UNAVAILABLE: 0.2}) as server:
        found = numbers(batches(parse_location(server.url), count=32))
        made = len(server.made)
    assert found == numbers(batches(folder, count=32))
    assert shared_url_reader().counts.retries == made > 0


def test_without_a_cache_nothing_is_fetched_ahead(folder, monkeypatch):
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE_GB", "0")
    with serving(folder) as server:
        assert numbers(batches(parse_location(server.url), count=4))
    assert shared_url_reader().counts.ranges_ahead == 0


def test_an_error_in_a_thread_is_met_by_the_read(folder):
    with serving(folder) as server:
        url = parse_location(server.url)
        numbers(batches(url, count=1))
        server.status = {f"tqa-train-{s:06d}.tar": 403 for s in range(8)}
        shared_url_reader()._file_infos.clear()
        with pytest.raises(OmniError, match="403"):
            batches(url, count=32)


def test_threads_fetch_in_order_drop_what_is_too_much_and_stop_when_closed():
    done, gate = [], threading.Event()
    threads = ReadAhead()
    for _ in range(module.THREADS):
        threads.add(gate.wait)
    while not threads._waiting.empty():
        time.sleep(0.001)
    for n in range(module._MOST_WAITING + 5):
        threads.add(lambda n=n: done.append(n))
    gate.set()
    while len(done) < module._MOST_WAITING:
        time.sleep(0.001)
    assert sorted(done) == list(range(module._MOST_WAITING))
    threads.close()
    for _ in range(2 * module.THREADS):
        threads.add(lambda: done.append("late"))
    time.sleep(0.05)
    assert "late" not in done
    assert shared_read_ahead() is shared_read_ahead()
