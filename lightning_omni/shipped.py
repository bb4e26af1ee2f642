"""The weights that come with the package, and how recipes fall back on them."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_omni.pretrained import CONFIG_FILE

log = logging.getLogger(__name__)

SHIPPED = "shipped"
FOLDER = Path(__file__).parent / "assets" / "mini"


def locate(given: str | list[str], part: str = "") -> Path:
    """Choose the first folder that holds an exported network.

    Args:
        given: A folder, or several in order of preference; the word `shipped` stands for the
            weights of the package.
        part: Folder inside the shipped model, such as `image_tokenizer`; empty for the model.

    Returns:
        The first that exists, else the first of all, so that the caller's error names it.
    """
    names = [given] if isinstance(given, str) else list(given)
    folders = [FOLDER / part if name == SHIPPED else Path(name) for name in names]
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            if folder != folders[0]:
                log.info("nothing in '%s' yet; taking '%s'", folders[0], folder)
            return folder
    return folders[0]
