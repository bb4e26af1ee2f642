"""Continuous speech input: a filter bank and a frozen encoder."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.nn.cpu import without_autocast

NUM_MELS = 80
STACKED = 7
"""Windows of a frame (m)."""
STRIDE = 6
"""Windows from one frame to the next (n)."""
DIM = NUM_MELS * STACKED
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0
_EMPHASIS = 0.97
_FULL_SCALE = 2.0**15  # published encoders were trained on 16-bit integers


class LfrFilterBank(nn.Module):
    """80 log-mel energies per 10 ms, seven of them stacked every 60 ms.

    Kaldi's windows: 25 ms, mean removed, pre-emphasis, Hamming; only whole windows count. No dither
    is added, so features are deterministic. The first window is repeated three times before the
    first frame, the last one to fill the last frame.

    Source: Kaldi's `compute-fbank-feats`; low frame rate: arXiv:1607.06947, section 2.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.hamming_window(_WINDOW, periodic=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", _mel_triangles(), persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N 560"]:
        """Return frames of samples in [-1, 1] at 16 kHz, N = ceil((1 + (T - 400) // 160) / 6).

        Raises:
            OmniError: If the recording is shorter than a window.
        """
        if wave.shape[1] < _WINDOW:
            raise OmniError(
                f"a recording of {wave.shape[1]} samples is shorter than a window of {_WINDOW}; "
                f"give at least {_WINDOW / SAMPLE_RATE} s"
            )
        with without_autocast(wave.device.type):
            return _stack_windows(self._log_mels(wave.float() * _FULL_SCALE))

    def _log_mels(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B W 80"]:
        windows = wave.unfold(1, _WINDOW, _HOP)
        windows = windows - windows.mean(-1, keepdim=True)
        before = torch.cat((windows[..., :1], windows[..., :-1]), dim=-1)
        shaped = (windows - _EMPHASIS * before) * self.window
        power = torch.fft.rfft(shaped, n=_FFT).abs().square()
        energy: Tensor = power @ self.filters
        return energy.clamp_min(torch.finfo(torch.float32).eps).log()


def _stack_windows(mels: Float[Tensor, "B W 80"]) -> Float[Tensor, "B N 560"]:
    """Return overlapping stacks of windows, so that a frame holds its context."""
    count = math.ceil(mels.shape[1] / STRIDE)
    ahead = (STACKED - 1) // 2
    behind = max(0, (count - 1) * STRIDE + STACKED - ahead - mels.shape[1])
    padded = F.pad(mels.transpose(1, 2), (ahead, behind), mode="replicate")
    stacks = padded.unfold(2, STACKED, STRIDE)[:, :, :count]
    return stacks.permute(0, 2, 3, 1).flatten(2)


def _mel_triangles() -> Float[Tensor, "257 80"]:
    """Return Kaldi's triangles: height one, equally spaced and linear in mel."""
    low, high = (1127 * math.log1p(hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    steps = torch.arange(NUM_MELS + 2, dtype=torch.float64)
    corners = low + (high - low) * steps / (NUM_MELS + 1)
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / _FFT
    mel = 1127 * torch.log1p(bins / 700)[:, None]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


_CMVN = re.compile(r"<(AddShift|Rescale)>[^\[]*<LearnRateCoef>[^\[]*\[([^\]]*)\]")


class SpeechFeatureEncoder(nn.Module):
    """Filter bank, normalisation and a frozen encoder.

    The encoder is never trained here and does not belong to the joint model: its features are
    stored with the data, and the joint model learns the projector behind it.

    Args:
        encoder: Any module that maps frames Float[1 N 560] to features Float[1 K F]; K is the
            number of context tokens. `torch.nn.Identity` returns the frames themselves.
        cmvn: File with mean and variance of the frames, as Kaldi writes them (`am.mvn`); None for
            frames that are not normalised.

    Raises:
        OmniError: If the file is missing or holds no statistics.
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
    def encode(self, wave: Float[Tensor, " T"], *, name: str) -> NDArray[np.floating[Any]]:
        """Return the features of a recording, Float16[K F].

        Args:
            wave: Samples in [-1, 1] at 16 kHz.
            name: Name of the recording, for errors.

        Raises:
            OmniError: If the encoder returns anything else than Float[1 K F] within the range of
                float16.
        """
        frames = self.filter_bank(wave[None].to(self.shift.device))
        with without_autocast(frames.device.type):
            features = self.encoder((frames + self.shift) * self.scale)
        encoder = type(self.encoder).__name__
        if not isinstance(features, Tensor) or features.ndim != 3 or len(features) != 1:
            shape = tuple(getattr(features, "shape", ())) or type(features).__name__
            raise OmniError(
                f"the speech encoder {encoder} turned frames of shape {tuple(frames.shape)} into "
                f"{shape}, wanted (1, K, F)"
            )
        half = features[0].half()
        if not (half.numel() and torch.isfinite(half).all()):
            raise OmniError(
                f"the speech encoder {encoder} turned '{name}' into {features.shape[1]} frames "
                "that are empty or not within float16; scale its output or leave the recording out"
            )
        encoded: NDArray[np.floating[Any]] = half.cpu().numpy()
        return encoded

    def fingerprint(self) -> str:
        """Return a hash of the encoder's class, structure and weights, and of the normalisation."""
        cls = type(self.encoder)
        digest = hashlib.sha256(f"{cls.__module__}.{cls.__qualname__}\n{self.encoder!r}".encode())
        for name, value in self.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return digest.hexdigest()


def _read_cmvn(file: str) -> tuple[Tensor, Tensor]:
    """Return the shift that is added to a frame, and the scale that multiplies the sum."""
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


def check_encoder_fingerprint(
    continuous_speech: SpeechFeatureEncoder | None, trained_with: str | None, *, is_needed: bool
) -> None:
    """Check that a model gets the encoder that it was trained with, and none if it needs none.

    Args:
        continuous_speech: the encoder that was given; None if none was.
        trained_with: fingerprint of the encoder that the model was trained with; None if unknown.
        is_needed: whether the model reads features.

    Raises:
        OmniError: If it does not.
    """
    if continuous_speech is None:
        return
    if not is_needed:
        raise OmniError(
            "continuous_speech is given but the model has no projector for features and reads "
            "codes; leave it out"
        )
    given = continuous_speech.fingerprint()
    if trained_with is not None and given != trained_with:
        raise OmniError(
            f"continuous_speech has the fingerprint {given[:12]} but the model was trained "
            f"with {trained_with[:12]}; give the encoder, its weights and the cmvn of the recipe"
        )
