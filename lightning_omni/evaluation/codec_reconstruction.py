"""Codec reconstruction: references encoded and decoded, the upper bound of a model of codes."""

from __future__ import annotations

from typing import Any

from lightning_omni.evaluation.examples import Response, first_part
from lightning_omni.generation.decode import MediaDecoder
from lightning_omni.types import Role, Sample


class CodecReconstructor:
    """Decodes the codes of samples by the tokenizers of a model.

    Args:
        decoder: Decoder of the model.
    """

    def __init__(self, decoder: MediaDecoder) -> None:
        self.decoder = decoder

    def decode(self, sample: Sample, role: Role) -> Response:
        """Decode image and speech of the turns of a role; text is returned as it is."""
        text = first_part(sample, role, "text")
        media: dict[str, Any] = {"sample_rate": self.decoder.speech.decoded_rate}
        for modality in ("image", "speech"):
            part = first_part(sample, role, modality)
            if part is not None and part.codes:
                media[modality] = self.decoder.decode(part)
        return Response(text.text if text else None, **media)
