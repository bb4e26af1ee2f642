"""What runs import late, imported once, so that a process forked from this one begins at once.

No thread may run when a process is forked: torch computes on one, and nothing here starts another.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

from lightning.fabric.utilities.cloud_io import _is_object_storage, get_filesystem

import lightning_omni.callbacks.defaults
import lightning_omni.callbacks.export_omni
import lightning_omni.cli_trainer
import lightning_omni.modules.sharding  # noqa: F401

_is_object_storage(get_filesystem("."))  # what every save asks, for which all stores are imported
