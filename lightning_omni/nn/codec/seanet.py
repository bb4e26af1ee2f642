"""EnCodec's SEANet encoder and decoder behind our codec interface: the full-scale variant."""

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
def _quiet() -> Iterator[None]:
    """Let the package's networks use a form of weight norm that torch advises against."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.*", FutureWarning)
        yield


class SEANetSpeechEncoder(Pretrained):
    """Waveform to latent frames by strided convolutions and an LSTM.

    Args:
        num_filters: Width of the first layer.
        ratios: Strides from the decoder's side; their product is the hop in samples.
        latent_dim: Size of a latent frame.
        lstm_layers: Recurrent layers at the frame rate.
        causal: No frame sees samples after its own.

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
        with _quiet():
            self.network = SEANetEncoder(
                dimension=latent_dim,
                n_filters=num_filters,
                ratios=ratios,
                lstm=lstm_layers,
                causal=causal,
            )

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N D"]:
        """Encode samples; the last frame of a T that `hop_length` does not divide is completed."""
        out: Tensor = self.network(wave[:, None]).transpose(1, 2)
        return out


class SEANetSpeechDecoder(Pretrained):
    """Mirror of `SEANetSpeechEncoder`; gives no log-mel estimate.

    Args:
        num_filters: Width of the last layer.
        ratios: As the encoder's.
        latent_dim: Size of a latent frame.
        lstm_layers: Recurrent layers at the frame rate.
        causal: No sample sees frames after its own.
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
        with _quiet():
            self.network = SEANetDecoder(
                dimension=latent_dim,
                n_filters=num_filters,
                ratios=ratios,
                lstm=lstm_layers,
                causal=causal,
            )

    def forward(self, latents: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B T"], None]:
        """Decode to samples."""
        return self.network(latents.transpose(1, 2)).squeeze(1), None
