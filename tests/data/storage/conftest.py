"""An own cache for each test, and retries that wait for milliseconds."""

import os

import pytest

from lightning_omni.data.storage import read_ahead, retries, url_reader
from lightning_omni.data.storage.retries import RetryPolicy

FAST = RetryPolicy(first_wait_s=0.001, longest_wait_s=0.01, connect_s=2, read_s=0.5, body_s=5)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE", str(folder))
    monkeypatch.setenv("LIGHTNING_OMNI_CACHE_GB", "1")
    monkeypatch.setattr(retries, "POLICY", FAST)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    url_reader._readers.pop(os.getpid(), None)
    yield folder
    url_reader._readers.pop(os.getpid(), None)
    threads = read_ahead._of_process.pop(os.getpid(), None)
    if threads is not None:  # they would go on asking the server of this test
        threads.close()


@pytest.fixture
def forget():
    """Forget all but the cache on the disk, as a new process does."""
    return lambda: url_reader._readers.pop(os.getpid(), None)
