"""How a model hears the speech of a request: as features of an encoder, or as codes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_omni.data.features_store import user_speech
from lightning_omni.data.media import resampled
from lightning_omni.errors import OmniError
from lightning_omni.generation.draft import Times
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.speech_features import ContinuousSpeech
from lightning_omni.types import Sample

_HEARS = (
    "the model hears speech through the features of an encoder, which its folder does not hold; "
    "give continuous_speech as in the recipe it was trained by"
)


class Ears:
    """The encoder of a model that has a projector.

    Args:
        backbone: The model.
        continuous_speech: Filter bank and encoder; None hears nothing.
        trained_with: Fingerprint of those that the model was trained with; None if not known.
        device: Where to compute.

    Raises:
        OmniError: If the model has no projector for an encoder's features, or knows another's.
    """

    def __init__(
        self,
        backbone: Transformer,
        continuous_speech: ContinuousSpeech | None,
        *,
        trained_with: str | None,
        device: torch.device,
    ) -> None:
        self.is_needed = backbone.feature_projector is not None
        if continuous_speech is not None and not self.is_needed:
            raise OmniError(
                "continuous_speech is given but the model has no projector for features and hears "
                "codes; leave it out"
            )
        if continuous_speech is not None and trained_with is not None:
            given = continuous_speech.fingerprint()
            if given != trained_with:
                raise OmniError(
                    f"continuous_speech has the fingerprint {given[:12]} but the model was trained "
                    f"with {trained_with[:12]}; give the encoder, its weights and the cmvn of the "
                    "recipe"
                )
        self.listener = None if continuous_speech is None else continuous_speech.to(device)

    def check(self, sample: Sample) -> None:
        """Refuse a sample whose speech is there as codes alone, if the model hears features.

        Raises:
            OmniError: If so.
        """
        if self.is_needed and any(part.features is None for part in user_speech(sample)):
            raise OmniError(f"sample '{sample.key}' holds speech as codes, but {_HEARS}")

    def hear(
        self, speech: NDArray[np.float32], *, rate: int, times: Times | None
    ) -> NDArray[np.floating[Any]] | None:
        """Features of a request's speech, Float16[K F]; None for a model that hears codes.

        Args:
            speech: Mono samples in [-1, 1].
            rate: Of them, in Hz.
            times: Runs that are hidden from the model.

        Raises:
            OmniError: If the encoder is not given, or something is to be hidden from it.
        """
        if not self.is_needed:
            return None
        if self.listener is None:
            raise OmniError(_HEARS)
        if times is not None:
            raise OmniError(
                "times hide codes of speech, but the model hears features, which reach across "
                "them; cut the sound instead"
            )
        wave = resampled(np.asarray(speech, dtype=np.float32), rate, SAMPLE_RATE)
        return self.listener.hear(torch.from_numpy(wave), about="request")
