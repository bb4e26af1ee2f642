"""Discriminators of the image codec (patches) and the speech codec (spectrograms)."""

from __future__ import annotations

from itertools import pairwise

from encodec.msstftd import MultiScaleSTFTDiscriminator
from jaxtyping import Float
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """PatchGAN: strided convolutions to a map of patch scores.

    Args:
        channels: Width of the first layer; every further layer doubles it.
        num_layers: Number of strided layers.

    Source: pix2pix, arXiv:1611.07004, section 3.2.2.
    """

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [3, *(channels * 2**i for i in range(num_layers))]
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            layers += [nn.Conv2d(wide_in, wide_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 1 V W"]:
        """Score patches; higher means real."""
        scores: Tensor = self.layers(images)
        return scores


class STFTDiscriminator(nn.Module):
    """Multi-scale STFT discriminator of waveforms.

    Args:
        filters: Number of channels of its convolutions.
        n_ffts: Transform sizes in samples; hop lengths are a quarter of them.

    Source: EnCodec, arXiv:2210.13438, section 3.4.
    """

    def __init__(self, filters: int, n_ffts: list[int]) -> None:
        super().__init__()
        self.network = MultiScaleSTFTDiscriminator(
            filters=filters,
            n_ffts=n_ffts,
            hop_lengths=[n // 4 for n in n_ffts],
            win_lengths=n_ffts,
        )

    def forward(self, wave: Float[Tensor, "B T"]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return scores and inner feature maps of each scale."""
        scores, features = self.network(wave[:, None])
        return scores, features
