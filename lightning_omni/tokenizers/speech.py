"""Speech <-> codes: an encoder, a residual quantizer and a decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.nn.codec.residual_vq import QuantizedFrames, ResidualQuantizer
from lightning_omni.pretrained import Pretrained
from lightning_omni.tokenizers.base import Tokenizer


class SpeechTokenizer(Tokenizer):
    """Residual-quantized speech codec; encoder and decoder are chosen by the recipe.

    A frame's codes follow each other, coarse level first: the code c of level q is
    `q * codebook_size + c`, so every level has its own range of codes.

    Args:
        encoder: Maps waveforms Float[B T] to latents Float[B N D]; has `hop_length` in samples.
        quantizer: Residual quantizer with the codebooks.
        decoder: Maps latents to (waveform, log-mel estimate or None).
        sample_rate: Sample rate in Hz.
        num_codebooks: Levels used, at most the quantizer's; fewer give a lower bit rate.
        encoder_completes: Whether the encoder pads the last frame itself; else silence is appended.

    Source: EnCodec, arXiv:2210.13438.
    """

    name = "speech"

    def __init__(
        self,
        encoder: Pretrained,
        quantizer: ResidualQuantizer,
        decoder: Pretrained,
        sample_rate: int,
        num_codebooks: int,
        encoder_completes: bool = False,
    ) -> None:
        super().__init__()
        if num_codebooks > quantizer.num_codebooks:
            raise OmniError(
                f"num_codebooks is {num_codebooks} but the quantizer has {quantizer.num_codebooks}"
            )
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.sample_rate, self.num_codebooks = sample_rate, num_codebooks
        self.encoder_completes = encoder_completes
        self.hop_length = int(encoder.hop_length)  # type: ignore[arg-type]

    @property
    def codebook_size(self) -> int:
        """Number of codes of one level."""
        return self.quantizer.codebook_size

    @property
    def num_codes(self) -> int:
        """Number of codes of all levels used."""
        return self.num_codebooks * self.codebook_size

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def code_features(self) -> Float[Tensor, "N F"]:
        """Codebook vectors of every code."""
        return self.quantizer.codebooks[: self.num_codebooks].flatten(0, 1)

    def quantize(self, wave: Float[Tensor, "B T"], *, num_codebooks: int) -> QuantizedFrames:
        """Encode to quantized latents, with the loss for training."""
        frames: QuantizedFrames = self.quantizer(self.encoder(wave), num_codebooks=num_codebooks)
        return frames

    def pad_last_frame(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B U"]:
        """Append silence up to a whole frame, unless the encoder pads by itself."""
        return (
            wave if self.encoder_completes else F.pad(wave, (0, -wave.shape[1] % self.hop_length))
        )

    def encode(self, wave: Float[Tensor, "B T"], *, sample_rate: int) -> Int[Tensor, "B N"]:
        """Turn mono speech into codes.

        Args:
            wave: Samples in [-1, 1]; the last frame is padded.
            sample_rate: Sample rate of `wave` in Hz.

        Raises:
            OmniError: If `sample_rate` is not `self.sample_rate`; this method never resamples.
        """
        if sample_rate != self.sample_rate:
            raise OmniError(
                f"the speech tokenizer works at {self.sample_rate} Hz but got {sample_rate} Hz; "
                "read the file with data.media.read_audio, which resamples"
            )
        latents = self.encoder(self.pad_last_frame(wave))
        codes = self.quantizer.encode(latents, num_codebooks=self.num_codebooks)
        level = torch.arange(self.num_codebooks, device=codes.device) * self.codebook_size
        return (codes + level).flatten(1)

    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B T"]:
        """Turn codes into samples in [-1, 1]."""
        per_frame = codes.reshape(len(codes), -1, self.num_codebooks) % self.codebook_size
        wave, _ = self.decoder(self.quantizer.decode(per_frame))
        samples: Tensor = wave.clamp(-1, 1)
        return samples
