"""SEANet encoder and decoder of EnCodec, for the full-scale speech codec."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator

from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
from jaxtyping import Float
from torch import Tensor

from lightning_omni.pretrained import Pretrained


@contextlib.contextmanager
def _ignore_weight_norm_warning() -> Iterator[None]:
    """Suppress the deprecation warning of weight norm, which `encodec` uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.*", FutureWarning)
        yield


class SEANetSpeechEncoder(Pretrained):
    """Encode a waveform to latent frames by strided convolutions and an LSTM.

    Args:
        num_filters: Width of the first layer.
        ratios: Strides in the order of the decoder; their product is the hop length in samples.
        latent_dim: Size D of a latent frame.
        lstm_layers: Number of LSTM layers at the frame rate.
        causal: Frames do not depend on later samples.

    Source: EnCodec, arXiv:2210.13438, section 3.1.
    """

    def __init__(
        self,
        num_filters: int,
        ratios: list[int],
        latent_dim: int,
        lstm_layers: int,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.hop_length = math.prod(ratios)
        with _ignore_weight_norm_warning():
            self.network = SEANetEncoder(
                dimension=latent_dim,
                n_filters=num_filters,
                ratios=ratios,
                lstm=lstm_layers,
                causal=causal,
            )

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N D"]:
        """Encode samples; T is padded to a multiple of `hop_length`."""
        out: Tensor = self.network(wave[:, None]).transpose(1, 2)
        return out


class SEANetSpeechDecoder(Pretrained):
    """Decode latent frames to a waveform, mirroring `SEANetSpeechEncoder`.

    Args:
        num_filters: Width of the last layer.
        ratios: Strides, as in the encoder.
        latent_dim: Size D of a latent frame.
        lstm_layers: Number of LSTM layers at the frame rate.
        causal: Samples do not depend on later frames.
    """

    def __init__(
        self,
        num_filters: int,
        ratios: list[int],
        latent_dim: int,
        lstm_layers: int,
        causal: bool = False,
    ) -> None:
        super().__init__()
        with _ignore_weight_norm_warning():
            self.network = SEANetDecoder(
                dimension=latent_dim,
                n_filters=num_filters,
                ratios=ratios,
                lstm=lstm_layers,
                causal=causal,
            )

    def forward(self, latents: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B T"], None]:
        """Return samples, and None in place of a log-mel estimate."""
        return self.network(latents.transpose(1, 2)).squeeze(1), None
