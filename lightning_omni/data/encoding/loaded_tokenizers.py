"""The tokenizers of a data folder, loaded on a device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.devices import device_facts
from lightning_omni.errors import OmniError
from lightning_omni.nn.computation import computation_facts
from lightning_omni.nn.cpu import matmul_dtype
from lightning_omni.tokenizers.base import FileTokenizer, Tokenizer
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechCodec


class LoadedTokenizers:
    """The tokenizers of a data folder on a device.

    Args:
        settings: What encodes the folder.
        device: Device that computes.

    Raises:
        OmniError: If a tokenizer is damaged, or a picture of the size in requests has no codes.
    """

    def __init__(self, settings: EncodingSettings, device: torch.device) -> None:
        self.device = device
        self.image = ImageTokenizer.from_pretrained(settings.image_tokenizer).to(device)
        self.request_size = settings.request_image_size or self.image.image_size
        if settings.request_image_size is not None:
            # a size without whole codes is refused here
            self.image.columns_for_size(self.request_size)
        self.speech = SpeechCodec.from_pretrained(settings.speech_tokenizer).to(device)
        self.files = load_file_tokenizers(settings.file_tokenizers)
        self.continuous_speech = settings.continuous_speech
        if self.continuous_speech is not None:
            self.continuous_speech.to(device)

    @property
    def has_two_image_sizes(self) -> bool:
        """Whether pictures in requests have another size than those in answers."""
        return self.request_size != self.image.image_size

    @property
    def by_modality(self) -> dict[str, Tokenizer]:
        """The tokenizer of each modality."""
        return {"speech": self.speech, "image": self.image, **self.files}

    def image_autocast(self) -> AbstractContextManager[object]:
        """Return the context of encoding pictures: bfloat16 products on GPUs, where it is faster.

        Speech is encoded in float32, as its encoders take less time than reading the recordings.
        """
        return torch.autocast("cuda", torch.bfloat16) if self._image_dtype else nullcontext()

    @property
    def _image_dtype(self) -> torch.dtype | None:
        """Format of autocast for pictures; None without."""
        is_gpu = self.device.type == "cuda"
        return torch.bfloat16 if is_gpu and matmul_dtype("cuda") is torch.bfloat16 else None

    def describe_computation(self) -> dict[str, Any]:
        """Return the device's kind, and what the tokenizers compute with."""
        dtypes = None if self._image_dtype is None else [self._image_dtype]
        return {
            "device": device_facts(self.device)["device"],
            "computation": {
                "image": computation_facts(self.image, dtypes),
                "speech": computation_facts(self.speech),
            },
        }


def load_file_tokenizers(folders: Mapping[str, Path]) -> dict[str, FileTokenizer]:
    """Load the tokenizers of further modalities.

    Raises:
        OmniError: If one is missing or belongs to another modality.
    """
    loaded = {name: FileTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    for name, tokenizer in loaded.items():
        if tokenizer.name != name:
            raise OmniError(f"'{folders[name]}' holds a tokenizer of {tokenizer.name}, not {name}")
    return loaded
