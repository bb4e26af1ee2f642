"""Interface of a modality's tokenizer: media to codes and back."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_omni.pretrained import Pretrained


class Tokenizer(Pretrained):
    """Media <-> codes in [0, num_codes); training code lives in `modules`."""

    name: str
    """Name of the modality."""

    @property
    @abstractmethod
    def num_codes(self) -> int:
        """Number of distinct codes."""

    @property
    @abstractmethod
    def code_features(self) -> Tensor:
        """Codebook vectors, Float[num_codes, F].

        Sign bits for lookup-free codes, codebook entries for a residual quantizer. The joint model
        may add a projection of them to its code embeddings.
        """

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return self.code_features.device


class FileTokenizer(Tokenizer):
    """Tokenizer of a further modality, whose media are files."""

    @abstractmethod
    def encode(self, content: bytes) -> list[int]:
        """Turn the content of a file into codes.

        Raises:
            OmniError: If the file is damaged or of another kind.
        """

    @abstractmethod
    def decode(self, codes: list[int]) -> bytes:
        """Turn codes into the content of a file."""

    @property
    def code_features(self) -> Tensor:
        """Codebook vectors, Float[num_codes, F]; by default none, F = 0."""
        return torch.zeros(self.num_codes, 0)
