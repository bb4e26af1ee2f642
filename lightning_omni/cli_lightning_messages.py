"""Lightning's messages: each once, and none that tells the user of a verb nothing to do."""

from __future__ import annotations

import logging
import warnings

_WARNINGS = (
    ".*LightningCLI's args parameter.*",
    ".*isinstance.treespec, LeafSpec.*",  # its own use of torch
    ".*ModelCheckpoint with manual optimization.*",  # weights behind a step are what is wanted
    ".*does not have many workers.*",  # a choice of recipes
    "Checkpoint directory .* exists and is not empty",  # a resumed run
)
_TIP = "Tip:"


def hide_inapplicable_messages() -> None:
    """Ignore warnings that do not apply, tips of other products, and the second of two copies.

    Lightning writes messages itself and passes them on to the root logger, which writes them too.
    """
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    if logging.getLogger().hasHandlers():
        logging.getLogger("lightning").handlers.clear()
    logging.getLogger("gcsfs").setLevel(
        logging.WARNING
    )  # Lightning imports it to ask for its types
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return _TIP not in record.getMessage()
