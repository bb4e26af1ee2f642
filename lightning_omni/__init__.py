"""Any-to-any masked diffusion over text, speech and image tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_omni.moved import install

if TYPE_CHECKING:
    from lightning_omni.generation.draft import Draft
    from lightning_omni.generation.omni import Omni

install()

__version__ = "0.1.0"
__all__ = ["Draft", "Omni", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a class when it is first asked for, so that small imports stay fast."""
    if name == "Draft":
        from lightning_omni.generation.draft import Draft

        return Draft
    if name == "Omni":
        from lightning_omni.generation.omni import Omni

        return Omni
    raise AttributeError(f"module 'lightning_omni' has no attribute '{name}'")
