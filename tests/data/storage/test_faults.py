"""What servers and networks do wrong is repeated and counted, or said in one sentence."""

import socket

import pytest
from servers import DROP, SHORT, STALL, UNAVAILABLE, WHOLE, serving

from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.url_reader import BLOCK, shared_url_reader
from lightning_omni.errors import OmniError

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def server(tmp_path):
    (tmp_path / "x.bin").write_bytes(CONTENT)
    (tmp_path / "empty").write_bytes(b"")
    with serving(tmp_path) as server:
        yield server


def read(server, name="x.bin"):
    return parse_location(f"{server.url}/{name}").read_bytes()


def test_bytes_come_by_range_and_once(server):
    url = parse_location(f"{server.url}/x.bin")
    assert url.read_range(1000, 30) == CONTENT[1000:1030]
    assert url.read_range(len(CONTENT) - 5, 30) == CONTENT[-5:]
    assert url.read_range(len(CONTENT), 30) == b""
    assert len(server.requests) == 2  # its facts and its one block


def test_an_empty_file_is_read(server):
    assert read(server, "empty") == b""


@pytest.mark.parametrize("fault", [DROP, SHORT, UNAVAILABLE, WHOLE, STALL])
def test_a_fault_is_repeated_and_counted(server, fault):
    server.script = [None, fault]
    assert read(server) == CONTENT
    counts = shared_url_reader().counts
    assert (counts.retries, counts.short_reads) == (1, fault in (DROP, SHORT, STALL))
    assert counts.bytes_fetched == len(CONTENT)  # what came before the fault is kept


def test_attempts_are_limited(server):
    server.script = [None] + [UNAVAILABLE] * 20
    with pytest.raises(OmniError, match=r"x\.bin' after 10 attempts.*status 503"):
        read(server)
    assert len(server.requests) == 11


def test_a_server_without_ranges_gives_whole_files_once(server):
    server.has_ranges = False
    server.script = [None, DROP]
    url = parse_location(f"{server.url}/x.bin")
    assert url.read_range(7, 9) == CONTENT[7:16]
    assert url.read_range(90_000, 9) == CONTENT[90_000:90_009]
    assert len(server.requests) == 3  # its facts, a body that broke off, the whole
    assert shared_url_reader().counts.short_reads == 1


def test_a_server_without_ranges_gives_files_of_several_blocks(server, tmp_path):
    server.has_ranges = False
    large = CONTENT * (2 * BLOCK // len(CONTENT) + 1)
    (tmp_path / "large").write_bytes(large)
    assert (
        parse_location(f"{server.url}/large").read_range(BLOCK - 3, 6)
        == large[BLOCK - 3 : BLOCK + 3]
    )
    assert read(server, "large") == large
    assert sum(name == "large" for name in server.requests) == 3


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "^no file 'http://127.*/x.bin'"), (403, "may not be read.*403"), (402, "gives status")],
)
def test_a_refusal_is_one_sentence_without_the_query(server, status, words):
    server.status["x.bin"] = status
    with pytest.raises(OmniError, match=words) as caught:
        parse_location(f"{server.url}/x.bin?signature=secret").read_range(0, 3)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_compressed_answer_is_refused(server):
    server.header["Content-Encoding"] = "gzip"
    with pytest.raises(OmniError, match="compresses"):
        read(server)


def test_a_file_that_is_replaced_while_it_is_read_is_noticed(server, tmp_path):
    url = parse_location(f"{server.url}/x.bin")
    assert url.stat().st_size == len(CONTENT)
    (tmp_path / "x.bin").write_bytes(CONTENT[:-9])
    with pytest.raises(OmniError, match="was replaced by another file"):
        url.read_range(0, 9)


def test_a_replaced_file_is_read_anew_from_the_next_start_on(server, tmp_path, forget):
    assert read(server) == CONTENT
    (tmp_path / "x.bin").write_bytes(CONTENT[::-1])
    forget()
    assert read(server) == CONTENT[::-1]


def test_no_server_is_one_sentence_after_three_attempts():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OmniError, match=r"after 3 attempts.*refuses connections"):
        parse_location(f"http://user:secret@127.0.0.1:{port}/x").is_file()


def test_no_host_is_one_sentence():
    with pytest.raises(OmniError, match=r"http://nowhere\.invalid/x'.*no such host"):
        parse_location("http://nowhere.invalid/x").is_file()


def test_a_folder_on_a_web_server_cannot_be_listed(server):
    with pytest.raises(OmniError, match="cannot be listed"):
        list(parse_location(f"{server.url}/folder/").iterdir())
