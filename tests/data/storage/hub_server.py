"""The few answers of a hub of datasets that reading a folder needs, on loopback."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_API, _FILES = "/api/datasets/", "/datasets/"


@contextmanager
def hub_server(folder, repository):
    """Yield the address of a hub with one dataset, the files of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.folder, server.repository = folder, repository
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_API):
            return self._answer_api(path.removeprefix(_API))
        return self._send_file(path.removeprefix(_FILES))

    do_HEAD = do_GET

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        is_json = "json" in (self.headers.get("Content-Type") or "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body)["paths"]
        paths = [paths] if isinstance(paths, str) else paths
        return self._send_json([one for path in paths for one in self._describe(path)])

    def _answer_api(self, name):
        if not f"{name}/".startswith(f"{self.server.repository}/"):
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        rest = name.removeprefix(self.server.repository).strip("/")
        if rest.startswith("tree/"):
            below = self.server.folder / rest.partition("/")[2].partition("/")[2]
            if not below.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            inside = [p.relative_to(self.server.folder) for p in sorted(below.iterdir())]
            return self._send_json([one for path in inside for one in self._describe(path)])
        return self._send_json({"id": self.server.repository, "sha": "0" * 40, "private": False})

    def _describe(self, path):
        file = self.server.folder / path
        if file.is_dir():
            return [{"type": "directory", "path": str(path), "oid": "0" * 40, "size": 0}]
        if not file.is_file():
            return []
        oid = hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
        return [{"type": "file", "path": str(path), "oid": oid, "size": file.stat().st_size}]

    def _send_file(self, name):
        prefix = f"{self.server.repository}/resolve/"
        file = self.server.folder / name.removeprefix(prefix).partition("/")[2]
        if not name.startswith(prefix) or not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, span = file.read_bytes(), self.headers.get("Range")
        if not span:
            return self._send(200, content, {})
        left, _, right = span.removeprefix("bytes=").partition("-")
        first, last = int(left), min(int(right or len(content)), len(content) - 1)
        header = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return self._send(206, content[first : last + 1], header)

    def _send_json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
