"""EnCodec's multi-scale STFT discriminator: a critic of complex spectra."""

from __future__ import annotations

from encodec.msstftd import MultiScaleSTFTDiscriminator
from jaxtyping import Float
from torch import Tensor, nn


class STFTDiscriminator(nn.Module):
    """Judges a waveform at several transform sizes.

    Args:
        filters: Width of its convolutions.
        n_ffts: Transform sizes in samples; hops are a quarter of them.

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
        """Scores and inner feature maps of each scale."""
        scores, features = self.network(wave[:, None])
        return scores, features
