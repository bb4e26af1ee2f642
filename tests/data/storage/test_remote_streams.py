"""The stream of a folder at a URL is that of the same folder on the disk."""

import os
from collections import Counter

import pytest
from folders import batches, numbers, write_folder
from servers import DROP, SHORT, UNAVAILABLE, WRONG_BYTES, serving

from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.shard_index import read_index
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.read_counts import sum_read_counts
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.errors import OmniError

FAULTS = {DROP: 0.05, SHORT: 0.05, UNAVAILABLE: 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), shards=6, samples=32)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_local_folder(folder, workers):
    wanted = numbers(batches(folder, count=48))
    with serving(folder, faults=FAULTS) as server:
        shared_url_reader()  # of this process, which workers must not use
        found = batches(parse_location(server.url), count=48, workers=workers)
    assert numbers(found) == wanted
    by_process = {one.process: one.counts for one in found}
    assert len(by_process) == max(workers, 1)
    assert (os.getpid() in by_process) == (workers == 0)
    assert sum_read_counts(by_process.values()).retries > 0


def test_no_sample_is_lost_or_repeated_and_requests_are_few(folder):
    with serving(folder, faults=FAULTS) as server:
        found = batches(parse_location(server.url), count=24)
        names = Counter(name for name in server.requests if name.endswith(".tar"))
        assert shared_url_reader().counts.retries == len(server.made)
    assert sorted(n for batch in numbers(found) for n in batch) == list(range(6 * 32))
    assert sum(names.values()) <= 2 * 6 + len(server.made)  # facts and one block of each shard


def test_a_second_process_reads_the_cache(folder, forget):
    with serving(folder) as server:
        first = numbers(batches(parse_location(server.url), count=24))
        forget()
        server.requests.clear()
        assert numbers(batches(parse_location(server.url), count=24)) == first
        assert shared_url_reader().counts.bytes_fetched == 0
        assert max(Counter(server.requests).values()) <= 6  # whether files are the same


def test_damaged_bytes_are_fetched_again_and_then_refused(folder):
    url_of = "{}/tqa-train-000000.tar".format
    with serving(folder) as server:
        read_index(parse_location(url_of(server.url)))  # index and facts are right
        server.script = [WRONG_BYTES]
        assert parse_location(url_of(server.url)).read_range(0, 4) != b"k0-0"
        found = batches(parse_location(server.url), count=24)
        assert sorted(n for batch in numbers(found) for n in batch) == list(range(6 * 32))
        assert shared_url_reader().counts.damaged >= 1


def test_a_shard_whose_bytes_stay_wrong_is_named(folder, tmp_path):
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "tqa-train-000002.tar":
            content[600] ^= 1
        (tmp_path / path.name).write_bytes(content)
    with (
        serving(tmp_path) as server,
        pytest.raises(OmniError, match=r"http://.*000002\.tar' is damaged: a sample's bytes"),
    ):
        batches(parse_location(server.url), count=24)
    assert shared_url_reader().counts.damaged == 1


def test_a_shard_without_index_is_read_once_to_make_it(folder, tmp_path, caplog):
    tar = folder / "tqa-train-000001.tar"
    (tmp_path / tar.name).write_bytes(tar.read_bytes())
    with serving(tmp_path) as server:
        made = read_index(parse_location(f"{server.url}/{tar.name}"))
    assert made.offsets.tolist() == read_index(tar).offsets.tolist()
    assert "has no index beside it" in caplog.text


def test_data_at_a_url_that_are_not_encoded_say_what_to_do(folder):
    from lightning_omni.pretrained import resolve_pretrained

    with (
        serving(folder) as server,
        pytest.raises(OmniError, match=r"are not encoded by these tokenizers.*encode"),
    ):
        ensure_codes(
            EncodingSettings(
                parse_location(server.url),
                resolve_pretrained("bundled", "image_tokenizer"),
                resolve_pretrained("bundled", "speech_tokenizer"),
            )
        )
