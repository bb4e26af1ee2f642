"""Versions of what determines the bytes of a data folder, for its manifest."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("numpy", "pillow", "resvg-py", "soundfile", "soxr")


def package_versions() -> dict[str, Any]:
    """Return the versions of Python and the packages that determine the output bytes."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {"tools": {"python": platform.python_version(), **versions}}
