"""Speech <-> codes: the interface, and an encoder, a residual quantizer and a decoder."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.nn.codec.residual_vq import QuantizedFrames, ResidualQuantizer
from lightning_omni.pretrained import Pretrained
from lightning_omni.tokenizers.base import Tokenizer


class SpeechCodec(Tokenizer):
    """Speech <-> codes, whatever the network: what encoding and generation use of it.

    A frame's codes follow each other, coarse level first: the code c of level q is
    `q * codebook_size + c`, so every level has its own range of codes.
    """

    name = "speech"
    sample_rate: int
    """Samples per second of speech that is encoded."""
    num_codebooks: int
    """Codes of a frame."""
    hop_length: int
    """Samples of a frame of speech that is encoded."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Number of codes of one level."""

    @property
    def num_codes(self) -> int:
        """Number of codes of all levels used."""
        return self.num_codebooks * self.codebook_size

    @property
    def decoded_rate(self) -> int:
        """Samples per second of decoded speech."""
        return self.sample_rate

    @property
    def decoded_hop_length(self) -> int:
        """Samples of a frame of decoded speech."""
        return self.hop_length * self.decoded_rate // self.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @abstractmethod
    def pad_last_frame(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B U"]:
        """Append silence up to a whole frame, unless `encode` pads by itself."""

    @abstractmethod
    def encode(self, wave: Float[Tensor, "B T"], *, sample_rate: int) -> Int[Tensor, "B N"]:
        """Turn mono speech into codes.

        Args:
            wave: Samples in [-1, 1]; the last frame is padded.
            sample_rate: Sample rate of `wave` in Hz.

        Raises:
            OmniError: If `sample_rate` is not `self.sample_rate`; this method never resamples.
        """

    @property
    def can_decode(self) -> bool:
        """Whether there is a decoder."""
        return True

    def check_can_decode(self) -> None:
        """Refuse to speak, before anything is generated, where only speech can be encoded.

        Raises:
            OmniError: If there is no decoder.
        """
        if not self.can_decode:
            raise OmniError(
                "the speech tokenizer has no decoder, so nothing can be spoken; import it again "
                "with --decoder and the folder of its decoder"
            )

    @abstractmethod
    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B T"]:
        """Turn codes into samples in [-1, 1], `decoded_hop_length` of each frame."""

    def check_rate(self, sample_rate: int) -> None:
        """Refuse speech of another rate.

        Raises:
            OmniError: If it is not `self.sample_rate`.
        """
        if sample_rate != self.sample_rate:
            raise OmniError(
                f"the speech tokenizer works at {self.sample_rate} Hz but got {sample_rate} Hz; "
                "read the file with data.media.read_audio, which resamples"
            )


class SpeechTokenizer(SpeechCodec):
    """Residual-quantized speech codec; encoder and decoder are chosen by the recipe.

    Args:
        encoder: Maps waveforms Float[B T] to latents Float[B N D]; has `hop_length` in samples.
        quantizer: Residual quantizer with the codebooks.
        decoder: Maps latents to (waveform, log-mel estimate or None).
        sample_rate: Sample rate in Hz.
        num_codebooks: Levels used, at most the quantizer's; fewer give a lower bit rate.
        encoder_completes: Whether the encoder pads the last frame itself; else silence is appended.

    Source: EnCodec, arXiv:2210.13438.
    """

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
        """Turn mono speech into codes; see `SpeechCodec`."""
        self.check_rate(sample_rate)
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
