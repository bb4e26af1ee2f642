"""Codec reconstruction: references encoded and decoded, the upper bound of a model of codes."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from lightning_omni.data.media import tensor_to_image
from lightning_omni.evaluation.examples import Response, part_of
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.types import Role, Sample


class CodecReconstructor:
    """Decodes the codes of samples by the tokenizers of an exported model.

    Args:
        model: Folder of the exported model.
    """

    def __init__(self, model: Path) -> None:
        self.image = ImageTokenizer.from_pretrained(model / "image_tokenizer")
        self.speech = SpeechTokenizer.from_pretrained(model / "speech_tokenizer")

    @torch.inference_mode()
    def decode(self, sample: Sample, role: Role) -> Response:
        """Decode image and speech of the turns of a role; text is returned as it is."""
        text = part_of(sample, role, "text")
        image, sound = part_of(sample, role, "image"), part_of(sample, role, "speech")
        picture: Image.Image | None = None
        if image is not None and image.codes:
            rows = self.image.columns
            pixels = self.image.decode(torch.tensor([image.codes]), rows=rows)
            picture = tensor_to_image(pixels[0])
        wave = None
        if sound is not None and sound.codes:
            wave = self.speech.decode(torch.tensor([sound.codes]))[0].float().cpu().numpy()
        return Response(text.text if text else None, picture, wave, self.speech.sample_rate)
