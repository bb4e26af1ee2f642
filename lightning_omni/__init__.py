"""Any-to-any masked diffusion over text, speech and image tokens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lightning_omni.old_names import install_finder

if TYPE_CHECKING:
    from lightning_omni.generation.config import GenerationConfig
    from lightning_omni.generation.omni import Omni
    from lightning_omni.generation.request import Infill

install_finder()
if "OMP_WAIT_POLICY" not in os.environ:
    # threads that wait soon sleep, as spinning on they starve beside other processes; 1,000 turns
    # are what libgomp takes itself where there are more threads than cores
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__all__ = ["GenerationConfig", "Infill", "Omni", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a class when it is first used, so that small imports stay fast."""
    if name == "Omni":
        from lightning_omni.generation.omni import Omni

        return Omni
    if name == "GenerationConfig":
        from lightning_omni.generation.config import GenerationConfig

        return GenerationConfig
    if name == "Infill":
        from lightning_omni.generation.request import Infill

        return Infill
    raise AttributeError(f"module 'lightning_omni' has no attribute '{name}'")
