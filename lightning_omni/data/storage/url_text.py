"""URLs as text: told from paths, joined, and shown without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

WEB = ("http", "https")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(source: str) -> bool:
    """Tell whether a source is a URL, not a local path; `file://` is one too."""
    return _URL.match(source) is not None


def url_scheme(url: str) -> str:
    """Return the scheme of a URL in lower case."""
    return url.partition("://")[0].lower()


def redact_url(url: str) -> str:
    """Return a URL as errors and records show it: without user, password, query and fragment."""
    scheme, rest = url.partition("://")[::2]
    if scheme.lower() not in WEB:
        if ":" in rest.partition("/")[0]:  # a user and a password, which may hold a slash
            rest = rest[rest.find("@") + 1 :]
        head, slash, path = rest.partition("/")
        return f"{scheme}://{head.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_credentials(url: str) -> bool:
    """Tell whether a URL holds what `redact_url` hides."""
    return redact_url(url) != url


def replace_url_path(url: str, path: str) -> str:
    """Return a URL with another path, its query kept."""
    if url_scheme(url) in WEB:
        return urlunsplit(urlsplit(url)._replace(path=path))
    return f"{url.partition('://')[0]}://{path}"


def url_path(url: str) -> str:
    """Return the path of a URL: for web addresses without host, for others with the bucket."""
    return urlsplit(url).path if url_scheme(url) in WEB else url.partition("://")[2]
