"""What starts the processes of an encoding; all of them follow one plan."""

from __future__ import annotations

from collections.abc import Callable

from lightning_omni.data.encoding.settings import EncodingSettings

LoadSettings = Callable[[], EncodingSettings]
"""Builds the settings in the process that calls it; can be pickled."""
