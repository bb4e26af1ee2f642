"""Download from and upload to a hub, which is contacted only if the user names a repository."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol, cast

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.tiktoken", "*.md")


class Hub(Protocol):
    """Methods of `huggingface_hub.HfApi` that are used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Create the repository unless it exists."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Upload all files of a folder in one commit."""

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str]) -> str:
        """Download the files that match into a cache and return their folder."""


def open_hub(option: str) -> Hub:
    """Return a client of the hub that `huggingface_hub` is logged in to.

    Args:
        option: option that needs the hub, named in errors.

    Raises:
        OmniError: If the package is not installed.
    """
    try:
        module = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise OmniError(
            f"{option} needs the package 'huggingface_hub'; run pip install 'lightning_omni[hub]'"
        ) from error
    return cast("Hub", module.HfApi())


def check_repo(repo: str, option: str) -> None:
    """Refuse an invalid repository name.

    Args:
        repo: name.
        option: option that the name is from, named in errors.

    Raises:
        OmniError: If it is not `owner/name`.
    """
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name or repo.split() != [repo]:
        raise OmniError(f"{option} is '{repo}', wanted owner/name of a repository")


def fetch_folder(repo: str, hub: Hub) -> Path:
    """Download a checkpoint, or find it in the hub's cache; code is not downloaded.

    Raises:
        OmniError: If the hub refuses or cannot be reached.
    """
    try:
        folder = hub.snapshot_download(repo, allow_patterns=list(_WANTED))
    except Exception as error:  # its client has errors of many families
        raise OmniError(
            f"cannot download '{repo}' ({error}); check the name, log in, or copy its folder "
            "here and give its path"
        ) from error
    log.info("downloaded %s to %s", repo, folder)
    return Path(folder)


def push_folder(folder: Path, repo: str, hub: Hub) -> None:
    """Upload a folder; a new repository is created as private.

    Raises:
        OmniError: If the hub refuses or cannot be reached; the folder stays.
    """
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Upload {folder.resolve().name}"
        )
    except Exception as error:  # its client has errors of many families
        raise OmniError(
            f"cannot upload '{folder}' to '{repo}' ({error}); the folder is complete: log in, "
            "check the name and upload it again"
        ) from error
    log.info("uploaded %s to %s", folder, repo)
