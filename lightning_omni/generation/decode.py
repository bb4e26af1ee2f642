"""Pictures and sound to drafts of codes, and codes back to media with the draft's own parts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.media import check_wave, image_to_tensor, opaque, square, tensor_to_image
from lightning_omni.generation.composite import compose_image, compose_speech
from lightning_omni.generation.draft import Times, open_cells, open_frames
from lightning_omni.generation.part_draft import ImageDraft, PartDraft, SpeechDraft
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.types import Part


class MediaCoder:
    """Encodes what a user gives and decodes what the model answers.

    Args:
        image: Tokenizer of pictures.
        speech: Tokenizer of sound.
        columns: Codes in a row of a picture.
        device: Where the tokenizers are.
    """

    def __init__(
        self,
        image: ImageTokenizer,
        speech: SpeechTokenizer,
        *,
        columns: int,
        device: torch.device,
    ) -> None:
        self.image, self.speech = image, speech
        self.columns, self.device = columns, device

    def read_image(self, image: Image.Image, mask: Image.Image | None) -> ImageDraft:
        """Encode a picture, with the codes open that the mask touches.

        Raises:
            OmniError: If the mask touches none.
        """
        pixels = square(opaque(image, "white"), self.image.image_size)
        codes = self.image.encode(image_to_tensor(pixels)[None].to(self.device))
        is_open = frozenset() if mask is None else open_cells(image, mask, self.columns)
        return ImageDraft(tuple(codes[0].tolist()), is_open, pixels)

    def read_speech(self, speech: NDArray[np.float32], times: Times | None) -> SpeechDraft:
        """Encode sound, with the frames open that the times touch.

        Raises:
            OmniError: If it is no mono sound of finite samples, too short or too long, or the times
                are not within it.
        """
        own = np.ascontiguousarray(speech, dtype=np.float32)
        rate, codebooks = self.speech.sample_rate, self.speech.num_codebooks
        check_wave(own, rate, "speech")
        codes = self.speech.encode(torch.from_numpy(own)[None].to(self.device), sample_rate=rate)
        frames: list[int] = []
        if times is not None:
            frames = open_frames(len(own), times, rate=rate, hop_length=self.speech.hop_length)
        places = frozenset(frame * codebooks + q for frame in frames for q in range(codebooks))
        return SpeechDraft(tuple(codes[0].tolist()), places, own)

    def decode(self, part: Part, draft: PartDraft | None) -> Image.Image | NDArray[np.float32]:
        """Decode a picture or sound; what a draft keeps is its own medium's."""
        codes = torch.tensor([list(part.codes or ())], device=self.device, dtype=torch.long)
        if part.modality == "image":
            image = tensor_to_image(self.image.decode(codes, rows=self.columns)[0])
            if isinstance(draft, ImageDraft) and draft.pixels is not None:
                return compose_image(image, draft.pixels, draft.open_places, self.columns)
            return image
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        wave: NDArray[np.float32] = self.speech.decode(codes)[0].float().cpu().numpy()
        if isinstance(draft, SpeechDraft) and draft.wave is not None:
            frames = {place // self.speech.num_codebooks for place in draft.open_places}
            hop, rate = self.speech.hop_length, self.speech.sample_rate
            return compose_speech(wave, draft.wave, frames, hop_length=hop, rate=rate)
        return wave
