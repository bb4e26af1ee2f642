"""What is encoded by what: a data folder and its tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.shards import MANIFEST, read_manifest
from lightning_omni.data.storage.locations import Location, Url
from lightning_omni.devices import device_facts
from lightning_omni.errors import OmniError
from lightning_omni.modalities import modality_named
from lightning_omni.nn.computation import computation_facts
from lightning_omni.pretrained import fingerprint
from lightning_omni.tokenizers.base import FileTokenizer, Tokenizer
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder


@dataclass(frozen=True)
class EncodingSettings:
    """A data folder and what encodes it.

    Attributes:
        data: Folder written by prep-data; at a URL it must be encoded.
        image_tokenizer: Folder of an exported image tokenizer.
        speech_tokenizer: Folder of an exported speech tokenizer.
        continuous_speech: Encoder of speech features; None without continuous speech.
        file_tokenizers: Folders of the tokenizers of further modalities.
        request_image_size: Side of pictures in requests in pixels; None for the image tokenizer's.
    """

    data: Location
    image_tokenizer: Path
    speech_tokenizer: Path
    continuous_speech: SpeechFeatureEncoder | None = None
    file_tokenizers: Mapping[str, Path] = field(default_factory=dict)
    request_image_size: int | None = None

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Hashes of the data and of all that encodes it.

        Raises:
            OmniError: If the data or a tokenizer is missing.
        """
        read_manifest(self.data)
        hashes = {
            "data": hashlib.sha256((self.data / MANIFEST).read_bytes()).hexdigest(),
            "image": _fingerprint(self.image_tokenizer, "image"),
            "speech": _fingerprint(self.speech_tokenizer, "speech"),
        }
        if self.continuous_speech is not None:
            hashes["heard"] = self.continuous_speech.fingerprint()  # its key names folders
        if self.request_image_size is not None:
            hashes["request_image_size"] = str(self.request_image_size)
        further = self.file_tokenizers.items()
        return hashes | {name: _fingerprint(source, name) for name, source in further}

    @cached_property
    def name(self) -> str:
        """Name of the folder of codes, which hashes the data and the tokenizers."""
        text = json.dumps(self.hashes, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def codes(self) -> Location:
        """Folder of the codes."""
        return self.data / "codes" / self.name

    @property
    def local_data(self) -> Path:
        """The data on this machine.

        Raises:
            OmniError: If they are at a URL.
        """
        if isinstance(self.data, Url):
            raise OmniError(
                f"the data at '{self.data}' are not encoded by these tokenizers (no "
                f"'codes/{self.name}/{MANIFEST}'); run `lightning_omni encode` on a local copy and "
                "upload its codes, or set data.data to a local folder"
            )
        return self.data

    @property
    def folder(self) -> Path:
        """Folder of the codes on this machine; see `local_data`."""
        return self.local_data / "codes" / self.name


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
            self.image.columns_of(self.request_size)  # a size without whole codes is refused here
        self.speech = SpeechTokenizer.from_pretrained(settings.speech_tokenizer).to(device)
        self.files = load_file_tokenizers(settings.file_tokenizers)
        self.continuous_speech = settings.continuous_speech
        if self.continuous_speech is not None:
            self.continuous_speech.to(device)

    @property
    def has_two_sizes(self) -> bool:
        """Whether pictures in requests have another size than those in answers."""
        return self.request_size != self.image.image_size

    @property
    def by_modality(self) -> dict[str, Tokenizer]:
        """The tokenizer of each modality."""
        return {"speech": self.speech, "image": self.image, **self.files}

    def computation(self) -> dict[str, Any]:
        """Return the device's kind, and what the tokenizers compute with."""
        codecs = {"image": self.image, "speech": self.speech}
        return {
            "device": device_facts(self.device)["device"],
            "computation": {name: computation_facts(codec) for name, codec in codecs.items()},
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


def _fingerprint(folder: Path, name: str) -> str:
    if not (folder / "config.json").is_file():
        if modality_named(name).is_file:
            raise OmniError(
                f"no {name} tokenizer in '{folder}'; give its exported folder in "
                f"data.file_tokenizers.{name}"
            )
        raise OmniError(
            f"no {name} tokenizer in '{folder}'; train it first with "
            f"`lightning_omni fit --config recipes/{name}_tokenizer.yaml`, or point the recipe's "
            f"data.{name}_tokenizer at an exported folder"
        )
    return fingerprint(folder)
