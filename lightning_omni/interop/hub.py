"""Folders to and from a hub, which is asked only where the user names one of its repositories."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol, cast

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.tiktoken", "*.md")


class Hub(Protocol):
    """The calls of `huggingface_hub.HfApi` that are needed."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make the repository unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Upload all files of a folder in one commit."""

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str]) -> str:
        """Download the files that match into a cache and return their folder."""


def open_hub(asked: str) -> Hub:
    """The hub that `huggingface_hub` is logged in to.

    Args:
        asked: The option that needs it, named in errors.

    Raises:
        OmniError: If the package is not installed.
    """
    try:
        module = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise OmniError(
            f"{asked} needs the package 'huggingface_hub'; run pip install 'lightning_omni[hub]'"
        ) from error
    return cast("Hub", module.HfApi())


def check_repo(repo: str, asked: str) -> None:
    """Refuse what is no name of a repository.

    Args:
        repo: The name.
        asked: The option that gave it, named in errors.

    Raises:
        OmniError: If it is not `owner/name`.
    """
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name or repo.split() != [repo]:
        raise OmniError(f"{asked} is '{repo}', wanted owner/name of a repository")


def fetch_folder(repo: str, hub: Hub) -> Path:
    """Download a checkpoint, or find it in the hub's cache; nothing that could run comes along.

    Raises:
        OmniError: If the hub refuses or cannot be reached.
    """
    try:
        folder = hub.snapshot_download(repo, allow_patterns=list(_WANTED))
    except Exception as error:  # its client has errors of many families
        raise OmniError(
            f"cannot download '{repo}' ({error}); look at the name, log in, or copy its folder "
            "here and give that"
        ) from error
    log.info("downloaded %s to %s", repo, folder)
    return Path(folder)


def push_folder(folder: Path, repo: str, hub: Hub) -> None:
    """Upload a folder; a repository that is not there yet is made private.

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
            f"cannot upload '{folder}' to '{repo}' ({error}); the folder is whole: log in, look at "
            "the name and upload it again"
        ) from error
    log.info("uploaded %s to %s", folder, repo)
