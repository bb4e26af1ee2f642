"""Speech from SNAC codes written as text, decoded by the package `snac`."""

from __future__ import annotations

import functools
import importlib.util
import io
from typing import Any

import soundfile
import torch

from lightning_omni.errors import OmniError

_MODEL = "hubertsiuzdak/snac_24khz"
_RATE = 24_000
_CODEBOOK = 4096
_LAYERS = ((0,), (1, 4), (2, 3, 5, 6))
"""Indices in a frame of seven codes of each of the three layers, coarse to fine."""


def check_snac_is_installed() -> None:
    """Check that codes can be decoded.

    Raises:
        OmniError: If the package is not installed.
    """
    if importlib.util.find_spec("snac") is None:
        raise OmniError(
            "the spoken answers are SNAC codes; pip install snac, which downloads its weights, or "
            "add a column answer_audio"
        )


def parse_snac_layers(codes: str, origin: str) -> list[list[int]]:
    """Return the codes of the three layers of `# c1 ... c7 # c1 ... c7`.

    Raises:
        OmniError: If a frame has not seven codes of the codebook, or there is none.
    """
    frames = [frame.split() for frame in codes.split("#") if frame.strip()]
    try:
        numbers = [[int(code) for code in frame] for frame in frames]
    except ValueError as error:
        raise OmniError(f"the SNAC codes of '{origin}' are no numbers ({error})") from error
    for frame in numbers:
        if len(frame) != 7 or not all(0 <= code < _CODEBOOK for code in frame):
            raise OmniError(
                f"'{origin}' has the SNAC frame {frame}, wanted 7 codes below {_CODEBOOK}"
            )
    if not numbers:
        raise OmniError(f"'{origin}' has no spoken answer")
    return [[frame[i] for frame in numbers for i in indices] for indices in _LAYERS]


def decode_snac_to_wav(codes: str, origin: str) -> bytes:
    """Return the sound of SNAC codes as a WAV file.

    Raises:
        OmniError: If the codes are malformed, or the weights cannot be had.
    """
    layers = [torch.tensor([layer]) for layer in parse_snac_layers(codes, origin)]
    with torch.inference_mode():
        wave = _load_snac_model().decode(layers).reshape(-1).clamp(-1, 1).cpu().numpy()
    file = io.BytesIO()
    soundfile.write(file, wave, _RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@functools.cache
def _load_snac_model() -> Any:
    from snac import SNAC

    return SNAC.from_pretrained(_MODEL).eval()
