"""Speech as an encoder's features, which the joint model hears in place of codes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.nn.lfr_filter_bank import DIM, LfrFilterBank

_CMVN = re.compile(r"<(AddShift|Rescale)>[^\[]*<LearnRateCoef>[^\[]*\[([^\]]*)\]")


class ContinuousSpeech(nn.Module):
    """Filter bank, normalisation and a frozen encoder.

    The encoder is never trained here and is no part of the joint model: what it hears is stored
    with the data, and what the joint model learns is the projector behind it.

    Args:
        encoder: Any module that maps frames Float[1 N 560] to features Float[1 K F]; K is the
            number of context tokens. `torch.nn.Identity` passes the frames themselves.
        cmvn: File with mean and variance of the frames, as Kaldi writes them (`am.mvn`); None
            leaves them as they are.

    Raises:
        OmniError: If the file is missing or holds none.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, cmvn: str | None = None) -> None:
        super().__init__()
        self.filter_bank = LfrFilterBank()
        self.encoder = encoder.requires_grad_(requires_grad=False).eval()
        shift, scale = (torch.zeros(DIM), torch.ones(DIM)) if cmvn is None else _read_cmvn(cmvn)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    @torch.inference_mode()
    def hear(self, wave: Float[Tensor, " T"], *, about: str) -> NDArray[np.floating[Any]]:
        """Features of a sound, Float16[K F].

        Args:
            wave: Samples in [-1, 1] at 16 kHz.
            about: Name of the sound, for errors.

        Raises:
            OmniError: If the encoder gives anything else than Float[1 K F] of numbers that float16
                holds.
        """
        frames = self.filter_bank(wave[None].to(self.shift.device))
        features = self.encoder((frames + self.shift) * self.scale)
        name = type(self.encoder).__name__
        if not isinstance(features, Tensor) or features.ndim != 3 or len(features) != 1:
            shape = tuple(getattr(features, "shape", ())) or type(features).__name__
            raise OmniError(
                f"the speech encoder {name} turned frames of shape {tuple(frames.shape)} into "
                f"{shape}, wanted (1, K, F)"
            )
        half = features[0].half()
        if not (half.numel() and torch.isfinite(half).all()):
            raise OmniError(
                f"the speech encoder {name} hears '{about}' as {features.shape[1]} frames that are "
                "empty or not within float16; scale its output or leave the sound out"
            )
        heard: NDArray[np.floating[Any]] = half.cpu().numpy()
        return heard

    def fingerprint(self) -> str:
        """Hash of the encoder's class, structure and weights, and of the normalisation."""
        cls = type(self.encoder)
        digest = hashlib.sha256(f"{cls.__module__}.{cls.__qualname__}\n{self.encoder!r}".encode())
        for name, value in self.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return digest.hexdigest()


def _read_cmvn(file: str) -> tuple[Tensor, Tensor]:
    """What is added to a frame, and what it is then multiplied by."""
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OmniError(f"cannot read cmvn '{file}' ({error}); give an am.mvn file") from error
    try:
        found = {
            name: torch.tensor([float(x) for x in numbers.split()])
            for name, numbers in _CMVN.findall(text)
        }
    except ValueError as error:
        raise OmniError(f"cmvn '{file}' is damaged ({error}); copy it again") from error
    sizes = {name: len(values) for name, values in found.items()}
    if sizes != {"AddShift": DIM, "Rescale": DIM}:
        raise OmniError(
            f"cmvn '{file}' holds {sizes or 'nothing'}, wanted AddShift and Rescale of {DIM} "
            "numbers each"
        )
    return found["AddShift"], found["Rescale"]
