"""Keys of samples and media: the names under which shards hold them."""

from __future__ import annotations

import re

from lightning_omni.errors import OmniError

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def check_key(key: str) -> None:
    """Reject a key that is no plain name.

    Raises:
        OmniError: If the key is malformed.
    """
    if KEY_PATTERN.fullmatch(key) is None:
        raise OmniError(f"key '{key}' is malformed; wanted 1 to 128 of A-Z a-z 0-9 _ -")
