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
        device: Device to decode on; None for the CPU.
    """

    def __init__(self, model: Path, *, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.image = ImageTokenizer.from_pretrained(model / "image_tokenizer").to(self.device)
        self.speech = SpeechTokenizer.from_pretrained(model / "speech_tokenizer").to(self.device)

    @torch.inference_mode()
    def decode(self, sample: Sample, role: Role) -> Response:
        """Decode image and speech of the turns of a role; text is returned as it is."""
        text = part_of(sample, role, "text")
        image, sound = part_of(sample, role, "image"), part_of(sample, role, "speech")
        picture: Image.Image | None = None
        if image is not None and image.codes:
            rows = self.image.columns
            pixels = self.image.decode(torch.tensor([image.codes], device=self.device), rows=rows)
            picture = tensor_to_image(pixels[0].cpu())
        wave = None
        if sound is not None and sound.codes:
            codes = torch.tensor([sound.codes], device=self.device)
            wave = self.speech.decode(codes)[0].float().cpu().numpy()
        return Response(text.text if text else None, picture, wave, self.speech.sample_rate)
