"""Provenance of a result: code, versions, machine and data."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.manifest import manifest_sha256
from lightning_omni.data.storage.locations import Location
from lightning_omni.devices import device_facts

_PACKAGES = ("lightning-omni", "torch", "lightning", "numpy", "faster-whisper", "webdataset")


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Return commit, versions, machine and time; None stands for what is not known.

    Number format and attention kernel are the network's, see `computation_facts`.

    Args:
        device: Device that did the work; None for the CPU.
    """
    used = device or torch.device("cpu")
    return {
        "commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **device_facts(used),
        "packages": {name: _package_version(name) for name in _PACKAGES},
    }


def manifest_hash(data: Location) -> str:
    """Identify a prepared data folder by its manifest, which hashes every shard."""
    return manifest_sha256(data)


def git_commit() -> str | None:
    """Return the commit of the source tree in use, with "+changes" if tracked files differ."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _run_git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _run_git(root, "status", "--porcelain", "-uno") else "")


def _run_git(root: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
