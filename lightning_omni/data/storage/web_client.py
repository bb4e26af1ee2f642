"""Web servers: ranged requests over kept connections, one attempt per call."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from requests import exceptions as errors
from urllib3 import exceptions as transport

from lightning_omni.data.storage.client_protocol import FileInfo
from lightning_omni.data.storage.request_errors import (
    MissingFileError,
    TransientError,
    access_denied_error,
    file_changed_error,
)
from lightning_omni.data.storage.retries import RetryPolicy
from lightning_omni.data.storage.url_text import redact_url
from lightning_omni.errors import OmniError

_CHUNK = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_MISSING, _DENIED, _TRY_AGAIN = (404, 410), (401, 403, 407), (408, 425, 429)
_WHOLE, _PART, _BEYOND, _FAILED = 200, 206, 416, 500


class WebClient:
    """Reads from web servers by `requests`, which knows proxies, redirects and `~/.netrc`.

    Args:
        policy: Time limits.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"

    def file_info(self, url: str) -> FileInfo:
        """Return the size and version of a file, found out by a request for its first byte."""
        with self._open_response(url, "bytes=0-0") as answer:
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
            if answer.status_code == _WHOLE:
                return FileInfo(_content_length(answer, url), version, has_ranges=False)
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or int(found[2] or 0) > 0:
                raise TransientError("another range came than was wanted, or no size")
            if answer.status_code == _PART and len(_read_body(answer, self.policy.body_s)) != 1:
                raise TransientError("another range came than was wanted")
            return FileInfo(int(found[3]), version)

    def read_range(self, url: str, start: int, stop: int, info: FileInfo) -> bytes:
        """Return bytes `[start, stop)`, or fewer if the answer ends early."""
        with self._open_response(url, f"bytes={start}-{stop - 1}") as answer:
            if answer.status_code == _WHOLE:
                raise TransientError("the whole file came instead of a byte range")
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or answer.status_code == _BEYOND:
                raise (
                    file_changed_error(url)
                    if found
                    else TransientError("another range came than was wanted")
                )
            if int(found[3]) != info.size:
                raise file_changed_error(url)
            if found[1] is None or int(found[1]) != start or int(found[2]) >= stop:
                raise TransientError("another range came than was wanted")
            return _read_body(answer, self.policy.body_s)[: stop - start]

    def stream_file(self, url: str, info: FileInfo) -> Iterator[bytes]:
        """Yield the whole file in pieces."""
        with self._open_response(url, None) as answer:
            if _content_length(answer, url) != info.size:
                raise file_changed_error(url)
            yield from _read_chunks(answer, None)

    def list_names(self, url: str) -> list[str]:
        """Refuse: web servers have no listings."""
        raise OmniError(
            f"'{redact_url(url)}' cannot be listed, as web servers have no listings; name its "
            "files, several by ranges in braces as in '{000..012}.tar'"
        )

    @contextmanager
    def _open_response(self, url: str, wanted: str | None) -> Iterator[requests.Response]:
        """Open an answer with status 200, 206 or 416."""
        limits = (self.policy.connect_s, self.policy.read_s)
        headers = {} if wanted is None else {"Range": wanted}
        try:
            answer = self._session.get(url, headers=headers, timeout=limits, stream=True)
            with answer:
                _check_response_status(answer, url)
                yield answer
        except errors.ConnectTimeout:
            raise TransientError(f"no connection in {limits[0]:g} s", is_unreachable=True) from None
        except errors.Timeout:
            raise TransientError(f"no answer in {limits[1]:g} s") from None
        except errors.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in repr(error):
                raise OmniError(
                    f"the certificate of the server of '{redact_url(url)}' is not trusted; set "
                    "REQUESTS_CA_BUNDLE to the file of its authority, or check the address"
                ) from None
            raise _connection_error(error) from None
        except errors.ConnectionError as error:
            raise _connection_error(error) from None
        except (errors.RequestException, transport.HTTPError, UnicodeError) as error:
            raise OmniError(
                f"'{redact_url(url)}' cannot be requested ({type(error).__name__}); check the "
                "address"
            ) from None


def _connection_error(error: errors.ConnectionError) -> TransientError:
    """Return the error of a connection in our words; its own text may hold the query."""
    text = repr(error)
    if "NameResolution" in text or "getaddrinfo" in text:
        return TransientError("there is no such host", is_unreachable=True)
    if "NewConnection" in text:
        return TransientError("the server refuses connections", is_unreachable=True)
    return TransientError("the connection broke off")


def _check_response_status(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in (_WHOLE, _PART, _BEYOND):
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise OmniError(
                f"the server compresses '{redact_url(url)}' on the way, so its bytes have no "
                "ranges; turn that off for this file"
            )
        return
    came = f"status {status} {answer.reason}"
    if status in _MISSING:
        raise MissingFileError
    if status in _DENIED:
        raise access_denied_error(url, came)
    if status in _TRY_AGAIN or status >= _FAILED:
        wait = answer.headers.get("Retry-After", "")
        raise TransientError(came, wait_s=float(wait) if wait.isdigit() else 0.0)
    raise OmniError(f"'{redact_url(url)}' gives {came}, wanted its bytes; check the address")


def _content_length(answer: requests.Response, url: str) -> int:
    length = answer.headers.get("Content-Length", "")
    if not length.isdigit():
        raise OmniError(
            f"the server gives no byte ranges of '{redact_url(url)}' and does not state its size, "
            "so a loss could not be noticed; copy the file to a local folder"
        )
    return int(length)


def _read_body(answer: requests.Response, limit_s: float) -> bytes:
    """Return the body; what came before an error goes with the error."""
    content = bytearray()
    try:
        for chunk in _read_chunks(answer, limit_s):
            content += chunk
    except TransientError as error:
        error.content = bytes(content)
        raise
    return bytes(content)


def _read_chunks(answer: requests.Response, limit_s: float | None) -> Iterator[bytes]:
    begun = time.monotonic()
    try:
        while chunk := answer.raw.read1(_CHUNK, decode_content=False):
            yield chunk
            if limit_s is not None and time.monotonic() - begun > limit_s:
                raise TransientError(f"the answer was not complete after {limit_s:g} s")
    except transport.ReadTimeoutError:
        raise TransientError("the answer stalled") from None
    except (transport.HTTPError, OSError):
        raise TransientError("the connection broke off") from None
