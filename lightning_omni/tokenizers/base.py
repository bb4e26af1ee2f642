"""What the joint model asks of a modality's tokenizer: media to codes and back."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lightning_omni.pretrained import Pretrained


class Tokenizer(Pretrained):
    """Media <-> codes in [0, num_codes). No training code lives here."""

    name: str
    """The modality's span in the vocabulary."""

    @property
    @abstractmethod
    def num_codes(self) -> int:
        """Number of distinct codes."""

    @property
    @abstractmethod
    def code_features(self) -> Tensor:
        """The codebook's geometry, Float[num_codes, F]: what makes two codes alike.

        Sign bits for lookup-free codes, codebook vectors for a residual quantizer. The joint model
        may add a projection of it to its code embeddings.
        """

    @abstractmethod
    def grid(self, num_tokens: int) -> list[tuple[int, int]]:
        """Place of each code: (row, column) in an image, (frame, codebook level) in speech."""
