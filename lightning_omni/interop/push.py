"""Upload an exported folder to a hub, which happens only when it is asked for."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol, cast

from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)


class Hub(Protocol):
    """The two calls of `huggingface_hub.HfApi` that an upload needs."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make the repository unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Upload all files of a folder in one commit."""


def open_hub() -> Hub:
    """The hub that `huggingface_hub` is logged in to.

    Raises:
        OmniError: If the package is not installed.
    """
    try:
        module = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise OmniError(
            "--push needs the package 'huggingface_hub'; run pip install 'lightning_omni[hub]'"
        ) from error
    return cast("Hub", module.HfApi())


def check_repo(repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        OmniError: If it is not `owner/name`.
    """
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name or repo.split() != [repo]:
        raise OmniError(f"--push is '{repo}', wanted owner/name of a repository")


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
