"""A server that passes requests on and spoils a share of the answers."""

import http.client
from contextlib import contextmanager
from urllib.parse import urlsplit

from servers import DROP, SHORT, UNAVAILABLE, FolderServer, _Handler, running


class _Passing(_Handler):
    def do_GET(self):
        self._pass_on("GET")

    def do_HEAD(self):
        self._pass_on("HEAD")

    def _pass_on(self, verb):
        server = self.server
        fault = server.next_fault(f"{verb} {urlsplit(self.path).path}")
        if fault == UNAVAILABLE:
            return self._empty(503)
        if verb == "HEAD" and fault is not None:
            server.made.remove(fault)
            fault = None
        upstream = http.client.HTTPConnection(server.upstream, timeout=20)
        upstream.request(verb, self.path, headers=dict(self.headers))
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "date", "server"):
                self.send_header(name, value)
        half = body[: len(body) // 2]
        length = answer.getheader("Content-Length", "0") if verb == "HEAD" else str(len(body))
        self.send_header("Content-Length", str(len(half)) if fault == SHORT else length)
        self.end_headers()
        if verb == "GET":
            self._send(body, half, fault)


@contextmanager
def spoiling(address, shares):
    """Pass requests on to an address until the block ends; heads are never cut."""
    server = FolderServer(None, faults=shares)
    server.RequestHandlerClass = _Passing
    server.upstream = urlsplit(address).netloc
    with running(server):
        yield server


FAULTS = {DROP: 0.05, SHORT: 0.05, UNAVAILABLE: 0.05}
