"""What is encoded by what: a data folder and its tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lightning_omni.data.manifest import MANIFEST, manifest_sha256
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError
from lightning_omni.modalities import modality_named
from lightning_omni.pretrained import fingerprint
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
        hashes = {
            "data": manifest_sha256(self.data),
            "image": _tokenizer_fingerprint(self.image_tokenizer, "image"),
            "speech": _tokenizer_fingerprint(self.speech_tokenizer, "speech"),
        }
        if self.continuous_speech is not None:
            hashes["heard"] = self.continuous_speech.fingerprint()  # its key names folders
        if self.request_image_size is not None:
            hashes["request_image_size"] = str(self.request_image_size)
        further = self.file_tokenizers.items()
        return hashes | {name: _tokenizer_fingerprint(source, name) for name, source in further}

    @cached_property
    def folder_name(self) -> str:
        """Name of the folder of codes, which hashes the data and the tokenizers."""
        text = json.dumps(self.hashes, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def codes_folder(self) -> Location:
        """Folder of the codes."""
        return self.data / "codes" / self.folder_name

    @property
    def local_data(self) -> Path:
        """The data on this machine.

        Raises:
            OmniError: If they are at a URL.
        """
        if isinstance(self.data, Url):
            raise OmniError(
                f"the data at '{self.data}' are not encoded by these tokenizers (no "
                f"'codes/{self.folder_name}/{MANIFEST}'); run `lightning_omni encode` on a local "
                "copy and upload its codes, or set data.data to a local folder"
            )
        return self.data

    @property
    def local_codes_folder(self) -> Path:
        """Folder of the codes on this machine; see `local_data`."""
        return self.local_data / "codes" / self.folder_name


def _tokenizer_fingerprint(folder: Path, name: str) -> str:
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
