"""Object stores through fsspec, one attempt per call; the retries of the libraries are off.

A file system of fsspec does not outlive a fork, and its own retries cover requests but not bodies
(fsspec/s3fs issues 914 and 1035), so each process makes its own and every error comes to `Retrier`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import fsspec
from fsspec.registry import known_implementations

from lightning_omni.data.storage.client_protocol import FileInfo
from lightning_omni.data.storage.request_errors import (
    MissingFileError,
    TransientError,
    access_denied_error,
    file_changed_error,
    no_credentials_error,
)
from lightning_omni.data.storage.retries import RetryPolicy
from lightning_omni.data.storage.url_text import redact_url, url_path, url_scheme
from lightning_omni.errors import OmniError, did_you_mean

_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime")
_LIBRARIES = {
    "aiohttp": "ClientError",
    "botocore.exceptions": "ClientError BotoCoreError",
    "httpx": "HTTPError",
    "httpx2": "HTTPError",
    "requests": "RequestException",
    "google.auth.exceptions": "GoogleAuthError",
    "gcsfs.retry": "HttpError",
    "huggingface_hub.errors": "HfHubHTTPError",
}
"""Errors of the libraries behind fsspec that are no `OSError`."""
_CREDENTIALS = ("NoCredentials", "PartialCredentials", "GoogleAuth", "DefaultCredentials", "Token")
_UNREACHABLE = ("EndpointConnection", "ConnectTimeout", "ClientConnector", "ConnectError")


class ObjectStoreClient:
    """Reads one scheme by its fsspec file system.

    Args:
        url: A URL of the scheme.
        policy: Time limits.

    Raises:
        OmniError: If the scheme is unknown, or its package is missing.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        self.scheme = url_scheme(url)
        self.files = _make_file_system(self.scheme, policy)

    def file_info(self, url: str) -> FileInfo:
        """Return the size and version of a file."""
        with _translate_errors(url):
            found = self.files.info(url_path(url))
        if found.get("type") == "directory" or found.get("size") is None:
            raise MissingFileError
        version = next((str(found[name]) for name in _VERSIONS if found.get(name)), "")
        return FileInfo(int(found["size"]), version)

    def read_range(self, url: str, start: int, stop: int, info: FileInfo) -> bytes:
        """Return bytes `[start, stop)`, or fewer if the answer ends early."""
        try:
            with _translate_errors(url):
                content = bytes(self.files.cat_file(url_path(url), start=start, end=stop))
        except MissingFileError:
            raise file_changed_error(url) from None
        if len(content) > stop - start:
            raise TransientError("more bytes came than were wanted")
        return content

    def stream_file(self, url: str, info: FileInfo) -> Iterator[bytes]:
        """Refuse: object stores give ranges."""
        raise NotImplementedError

    def list_names(self, url: str) -> list[str]:
        """Return the names in a folder, those of folders with a slash behind them."""
        with _translate_errors(url):
            found = self.files.ls(url_path(url).rstrip("/"), detail=True)
        names = [
            str(one["name"]).rstrip("/").rpartition("/")[2] + "/" * (one["type"] == "directory")
            for one in found
        ]
        return [name for name in names if name.strip("/")]


def _make_file_system(scheme: str, policy: RetryPolicy) -> Any:
    if scheme not in known_implementations:
        known = ("s3", "gs", "hf", "http", "https")
        raise OmniError(
            f"'{scheme}://' is no scheme that can be read{did_you_mean(scheme, known)}; give a "
            f"local path or one of {', '.join(known)}"
        )
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": policy.connect_s, "read_timeout": policy.read_s}
        options["config_kwargs"] = {**limits, "retries": {"total_max_attempts": 1}}
    try:
        if scheme in ("gs", "gcs") and not os.environ.get("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"):
            # gcsfs's own choice looks up the bucket's layout, over gRPC, before every read
            kind: Any = import_module("gcsfs.core").GCSFileSystem
            files = kind(skip_instance_cache=True, **options)
        else:
            files = fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except ImportError as error:
        raise OmniError(
            f"{scheme}:// needs a package that is not installed ({error}); pip install "
            "'lightning-omni[remote]'"
        ) from error
    if hasattr(files, "retries"):
        files.retries = 1  # s3fs: attempts of a request
    return files


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    """Raise our errors in place of the libraries', whose texts may hold credentials."""
    try:
        yield
    except FileNotFoundError:
        raise MissingFileError from None
    except PermissionError as error:
        raise _explain_denial(url, error) from None
    except ValueError as error:
        raise OmniError(
            f"'{redact_url(url)}' is no address of a file ({type(error).__name__}); check its "
            "spelling"
        ) from None
    except _library_error_classes() as error:
        name, status = type(error).__name__, _http_status(error)
        if status == 404:
            raise MissingFileError from None
        if status in (401, 403):
            raise access_denied_error(url, f"the store answers {status}") from None
        if name.startswith(_CREDENTIALS):
            raise no_credentials_error(url, name) from None
        is_unreachable = isinstance(error, ConnectionRefusedError) or name.startswith(_UNREACHABLE)
        raise TransientError(_describe_error(error), is_unreachable=is_unreachable) from None


def _explain_denial(url: str, error: PermissionError) -> OmniError:
    """Return our error for a refusal, for which s3fs has one class whatever its cause."""
    code = _error_code(error.__cause__) or ""
    if code.startswith("Expired"):
        return no_credentials_error(url, code)
    return access_denied_error(url, "access denied")


def _http_status(error: BaseException) -> int | None:
    """Return the status of an answer that a library tells by an error; gcsfs has it as `code`."""
    answer = getattr(error, "response", None)
    found = getattr(answer, "status_code", getattr(error, "code", None))
    return found if isinstance(found, int) else None


def _describe_error(error: BaseException) -> str:
    """Return an error's name and, if it has one, the store's code."""
    number = getattr(error, "errno", None)
    found = [str(part) for part in (type(error).__name__, _error_code(error), number) if part]
    return " ".join(found)


def _error_code(error: BaseException | None) -> str | None:
    """Return the code that S3 and its like name an error by."""
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return None if code is None else str(code)


def _library_error_classes() -> tuple[type[Exception], ...]:
    """Return the classes of errors that a request may raise, of those libraries in use."""
    found: list[type[Exception]] = [OSError, EOFError]
    for module, names in _LIBRARIES.items():
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names.split() if hasattr(loaded, name)]
    return tuple(found)
