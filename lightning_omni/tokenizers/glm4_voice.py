"""GLM-4-Voice's speech tokenizer: 12.5 codes per second, decoded by a flow and a vocoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.nn.codec.hift import DECODED_RATE, Hift
from lightning_omni.nn.codec.speech_flow import SpeechFlow
from lightning_omni.nn.codec.whisper_vq import SAMPLE_RATE, WhisperVqEncoder
from lightning_omni.nn.cpu import without_autocast
from lightning_omni.tokenizers.speech import SpeechCodec

NUM_STEPS, NOISE_SEED = 10, 42
"""Euler steps of the release, and the seed of its noise."""


class Glm4VoiceTokenizer(SpeechCodec):
    """Speech at 16 kHz to codes, and codes to speech at 22,050 Hz in one voice.

    Speech is encoded in windows of 30 s that know nothing of each other, one code per 1,280 samples
    begun. It is frozen. Decoding draws the same noise each time, so that equal codes sound equal,
    in a batch and alone, and torch's own generators are left as they are. Both compute in float32,
    also under autocast.

    Args:
        encoder: Samples to codes.
        flow: Codes to spectra; None for a tokenizer that cannot decode.
        vocoder: Spectra to samples; None where `flow` is.
        num_steps: Euler steps of the flow.
        noise_seed: Seed of the noise that the flow begins at and of the vocoder's.

    Source: GLM-4-Voice, arXiv:2412.02612, sections 3.1 and 3.2.
    """

    def __init__(
        self,
        encoder: WhisperVqEncoder,
        flow: SpeechFlow | None = None,
        vocoder: Hift | None = None,
        num_steps: int = NUM_STEPS,
        noise_seed: int = NOISE_SEED,
    ) -> None:
        super().__init__()
        self.encoder, self.flow, self.vocoder = encoder, flow, vocoder
        self.num_steps, self.noise_seed = num_steps, noise_seed
        self.sample_rate, self.num_codebooks = SAMPLE_RATE, 1
        self.hop_length = encoder.hop_length
        self.requires_grad_(requires_grad=False)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.encoder.codebook.num_embeddings

    @property
    def can_decode(self) -> bool:
        """Whether flow and vocoder are there."""
        return self.flow is not None and self.vocoder is not None

    @property
    def decoded_rate(self) -> int:
        """Samples per second of decoded speech, 22,050."""
        return DECODED_RATE

    @property
    def code_features(self) -> Float[Tensor, "N F"]:
        """Codebook vectors of every code."""
        return self.encoder.codebook.weight.detach()

    def pad_last_frame(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Return the samples: the encoder masks what it pads, so it must know where they end."""
        return wave

    @torch.no_grad()
    def encode(self, wave: Float[Tensor, "B T"], *, sample_rate: int) -> Int[Tensor, "B N"]:
        """Turn mono speech into codes; see `SpeechCodec`."""
        self.check_rate(sample_rate)
        size = self.encoder.window_length
        starts = range(0, wave.shape[1], size)
        with without_autocast(wave.device.type):
            codes = [self.encoder(wave[:, start : start + size].float()) for start in starts]
        none = torch.zeros(len(wave), 0, dtype=torch.long, device=wave.device)
        return torch.cat([none, *codes], dim=1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B T"]:
        """Turn codes into samples in [-1, 1] at 22,050 Hz, 1,764 per code.

        A code is 6.89 spectra of 256 samples; what the last one lacks is silence.

        Raises:
            OmniError: If the tokenizer was imported without a decoder.
        """
        self.check_can_decode()
        assert self.flow is not None  # noqa: S101 - just checked
        assert self.vocoder is not None  # noqa: S101
        if not codes.shape[1]:
            return torch.zeros(len(codes), 0, device=codes.device)
        rng = torch.Generator().manual_seed(self.noise_seed)
        with without_autocast(codes.device.type):
            spectra = self.flow(codes, num_steps=self.num_steps, rng=rng)
            wave: Tensor = self.vocoder(spectra, rng)
        return F.pad(wave, (0, codes.shape[1] * self.decoded_hop_length - wave.shape[1]))
