"""A web server of a folder with byte ranges, and faults that are made on request."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from urllib.parse import unquote, urlsplit

DROP, SHORT, UNAVAILABLE, STALL, WHOLE, WRONG_BYTES = [
    "drop",
    "short",
    "503",
    "stall",
    "whole",
    "wrong",
]


class FolderServer(ThreadingHTTPServer):
    """Serves a folder on loopback.

    Args:
        folder: The folder.
        faults: Share of answers by fault; the draw is seeded.
        script: Faults of the next answers, taken in turn before `faults` apply; None is none.
    """

    daemon_threads = True

    def __init__(self, folder, faults=None, script=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.faults, self.script = folder, faults or {}, list(script)
        self.rng, self.lock = Random(0), threading.Lock()
        self.requests, self.made = [], []
        self.has_ranges, self.status, self.header = True, {}, {}

    def handle_error(self, request, client_address):
        """Say nothing of clients that close connections."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, name):
        with self.lock:
            self.requests.append(name)
            if self.script:
                fault = self.script.pop(0)
            else:
                draw, fault = self.rng.random(), None
                for kind, share in self.faults.items():
                    if 0 <= draw < share:
                        fault = kind
                    draw -= share
            self.made += [fault] * (fault is not None)
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        name = unquote(urlsplit(self.path).path).lstrip("/")
        fault = server.next_fault(name)
        path = server.folder / name
        if name in server.status or fault == UNAVAILABLE or not path.is_file():
            return self._empty(server.status.get(name, 503 if fault == UNAVAILABLE else 404))
        content = path.read_bytes()
        span = self.headers.get("Range") if server.has_ranges and fault != WHOLE else None
        first, last = 0, len(content) - 1
        if span:
            left, _, right = span.removeprefix("bytes=").partition("-")
            first, last = int(left), min(int(right), last)
            if first > last:
                return self._empty(416, ("Content-Range", f"bytes */{len(content)}"))
        body = content[first : last + 1]
        self.send_response(206 if span else 200)
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        for header, value in server.header.items():
            self.send_header(header, value)
        half = body[: len(body) // 2]
        self.send_header("Content-Length", str(len(half if fault == SHORT else body)))
        self.end_headers()
        self._send(body, half, fault)

    def _send(self, body, half, fault):
        if fault in (DROP, STALL):
            self.wfile.write(half)
            self.wfile.flush()
            self.close_connection = True
            if fault == STALL:
                self.server.stalled.wait(20)
        elif fault == WRONG_BYTES:
            self.wfile.write(bytes(b ^ 0xFF for b in body))
        else:
            self.wfile.write(half if fault == SHORT else body)

    def _empty(self, status, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(folder, **options):
    """Serve a folder until the block ends."""
    with running(FolderServer(folder, **options)) as server:
        yield server


@contextmanager
def running(server):
    """Run a server in a thread until the block ends, which also ends what it stalls."""
    server.stalled = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.stalled.set()
        server.shutdown()
        thread.join()
        server.server_close()
