"""The trial: a hundred shards over HTTP and S3, with faults, lose and repeat no sample.

    python -m pytest -m slow -s tests/data/storage/test_trial.py

prints a row of each server: samples, requests, what was wrong and repeated, and samples per second.
"""

import time
from collections import Counter

import pytest
from faulty_proxy import FAULTS, spoiling
from folders import batches, write_folder
from s3_server import KEYS, s3_server, upload
from servers import serving

from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.read_counts import sum_read_counts

SHARDS, SAMPLES, SIZE, LANES = 100, 256, 8_000, 64
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("trial"), shards=SHARDS, samples=SAMPLES, size=SIZE)


def measure(name, folder, server=None, *, workers=0):
    """Read an epoch, print a row, and return how often each sample came."""
    samples = SHARDS * SAMPLES
    begun = time.monotonic()
    found = batches(folder, count=samples // 8, workers=workers, lanes=LANES)
    seconds = time.monotonic() - begun
    counts = sum_read_counts({one.process: one.counts for one in found}.values())
    seen = Counter(n for one in found for n in one.batch.tolist())
    made = Counter(server.made) if server else {}
    print(  # noqa: T201
        f"| {name} | {samples} | {samples - len(seen)} | {samples - sum(seen.values())} "
        f"| {max(seen.values()) - 1} | {sum(made.values())} | {counts.describe()} "
        f"| {1000 * counts.requests / samples:.1f} | {samples / seconds:,.0f} |"
    )
    return seen, counts, made


def once(seen):
    return seen == dict.fromkeys(range(SHARDS * SAMPLES), 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["sound", "faulty"])
def test_http(folder, faults, workers, forget):
    with serving(folder, faults=faults) as server:
        row = f"http {'faulty' if faults else 'sound'} workers {workers}"
        seen, counts, made = measure(row, parse_location(server.url), server, workers=workers)
        assert once(seen)
        if workers:  # workers fetch beyond the last batch
            assert bool(faults) <= counts.retries <= sum(made.values())
        else:
            assert counts.retries == sum(made.values())
        assert counts.damaged == counts.uncached == 0
        forget()
        if not faults:
            measure(f"{row}, cached", parse_location(server.url), server, workers=workers)


@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["sound", "faulty"])
def test_s3(folder, faults, monkeypatch):
    for package in ("s3fs", "moto", "flask_cors"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as endpoint, spoiling(endpoint, faults) as server:
        upload(folder, "data", endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        row = f"s3 {'faulty' if faults else 'sound'}"
        seen, counts, made = measure(row, parse_location("s3://data"), server)
        assert once(seen)
        assert counts.retries == sum(made.values())


def test_local(folder):
    seen, counts, _ = measure("local", folder)
    assert once(seen)
    assert counts.requests == 0
