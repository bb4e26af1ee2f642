"""Speech codes to mel spectra by flow matching, as GLM-4-Voice's decoder does."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from lightning_omni.nn.codec.block_conformer import BlockConformer
from lightning_omni.nn.codec.flow_unet import FlowUnet
from lightning_omni.nn.codec.hift import DECODED_HOP, DECODED_RATE
from lightning_omni.pretrained import Pretrained

NUM_CONVS = 4
"""Convolutions behind the repetition of frames."""


class LengthRegulator(nn.Module):
    """Repeats frames to the number of spectra, then smooths them by convolutions.

    Args:
        channels: Size of a frame.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(NUM_CONVS):
            convolution = nn.Conv1d(channels, channels, 3, padding=1)
            layers += [convolution, nn.GroupNorm(1, channels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(channels, channels, 1))

    def forward(self, frames: Float[Tensor, "B N C"], num_spectra: int) -> Float[Tensor, "B C F"]:
        """Return one row per spectrum."""
        repeated = F.interpolate(frames.transpose(1, 2), size=num_spectra, mode="nearest")
        out: Tensor = self.model(repeated)
        return out


class ConditionalFlow(Pretrained):
    """Solves the flow from noise to a spectrum in Euler steps, with classifier-free guidance.

    Args:
        estimator: Velocity field.
        guidance: Weight w of guidance: (1 + w) v(x | condition) - w v(x).

    Source: flow matching, arXiv:2210.02747; its guidance: Voicebox, arXiv:2306.15687, section 3.2.
    """

    def __init__(self, estimator: FlowUnet, guidance: float) -> None:
        super().__init__()
        self.estimator, self.guidance = estimator, guidance

    def forward(
        self, noise: Float[Tensor, "B M F"], condition: Float[Tensor, "B C F"], num_steps: int
    ) -> Float[Tensor, "B M F"]:
        """Return spectra; times are 1 - cos of equal parts of a right angle."""
        parts = torch.linspace(0, 1, num_steps + 1, dtype=noise.dtype, device=noise.device)
        times = 1 - torch.cos(parts * (math.pi / 2))
        both = torch.cat((condition, torch.zeros_like(condition)))
        x = noise
        for t, after in pairwise(times.unbind()):
            velocity = self.estimator(torch.cat((x, x)), both, t.expand(2 * len(x)))
            conditional, unconditional = velocity.chunk(2)
            guided = (1 + self.guidance) * conditional - self.guidance * unconditional
            x = x + (after - t) * guided
        return x


class SpeechFlow(Pretrained):
    """Codes to mel spectra in one voice; its weights have the published names.

    Args:
        codebook_size: Number of codes.
        input_dim: Size of an embedded code.
        num_mels: Bands M of a spectrum.
        speaker_dim: Size of a speaker's embedding, which is zero here.
        frame_rate: Codes per second.
        encoder: Encoder of embedded codes.
        flow: Flow from noise.

    Source: CosyVoice, arXiv:2407.05407, section 2.3; GLM-4-Voice, arXiv:2412.02612, section 3.2.
    """

    def __init__(
        self,
        codebook_size: int,
        input_dim: int,
        num_mels: int,
        speaker_dim: int,
        frame_rate: float,
        encoder: BlockConformer,
        flow: ConditionalFlow,
    ) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.spectra_per_code = Fraction(DECODED_RATE, DECODED_HOP) / Fraction(frame_rate)
        self.input_embedding = nn.Embedding(codebook_size, input_dim)
        self.spk_embed_affine_layer = nn.Linear(speaker_dim, num_mels)
        self.encoder = encoder
        self.encoder_proj = nn.Linear(encoder.after_norm.normalized_shape[0], num_mels)
        self.length_regulator = LengthRegulator(num_mels)
        self.decoder = flow

    def num_spectra(self, num_codes: int) -> int:
        """Return the number of spectra of a number of codes, rounded down."""
        return math.floor(num_codes * self.spectra_per_code)

    def forward(
        self, codes: Int[Tensor, "B N"], *, num_steps: int, rng: Generator
    ) -> Float[Tensor, "B M F"]:
        """Generate the spectra of codes; all of a batch begin at the same noise.

        Args:
            codes: Codes in [0, codebook_size).
            num_steps: Euler steps.
            rng: Generator on the CPU that draws the noise, so that a seed gives the same one on
                every device.
        """
        frames = self.encoder_proj(self.encoder(self.input_embedding(codes)))
        content = self.length_regulator(frames, self.num_spectra(codes.shape[1]))
        speaker = self.spk_embed_affine_layer.bias[:, None].expand_as(content)
        # no spectra are given before those that are generated
        condition = torch.cat((content, speaker, torch.zeros_like(content)), dim=1)
        noise = torch.randn(1, *content.shape[1:], generator=rng).to(content)
        spectra: Tensor = self.decoder(noise.expand_as(content), condition, num_steps)
        return spectra
