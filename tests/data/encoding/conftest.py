"""Nothing waits long for a shard of another process."""

import pytest

from lightning_omni.jobs import worker


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch):
    monkeypatch.setattr(worker, "POLL_S", 0.01)
