"""The text ranks of Qwen, as installed by the package `dashscope`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lightning_omni.errors import OmniError

QWEN = "qwen"
_FILE = "dashscope/resources/qwen.tiktoken"
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenization pattern. Source: arXiv:2309.16609, section 2.2."""


def find_qwen_ranks() -> Path:
    """Return the path of the 151,643 ranks; the package is located, not imported.

    Raises:
        OmniError: If it is not installed or lacks them.
    """
    try:
        path = Path(str(distribution("dashscope").locate_file(_FILE)))
    except PackageNotFoundError as error:
        raise OmniError(
            "text_ranks is 'qwen', whose ranks come with the package 'dashscope', which is not "
            "installed; run pip install 'lightning_omni[qwen]'"
        ) from error
    if not path.is_file():
        raise OmniError(f"no text ranks at '{path}'; run pip install 'lightning_omni[qwen]' again")
    return path
