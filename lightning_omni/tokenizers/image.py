"""Images <-> codes: a convolutional autoencoder with lookup-free quantization."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.nn.codec.lookup_free import LookupFreeQuantizer, Quantized
from lightning_omni.nn.codec.magvit import ConvDecoder, ConvEncoder
from lightning_omni.tokenizers.base import Tokenizer


class ImageTokenizer(Tokenizer):
    """Image tokenizer of MAGVIT-v2's architecture.

    Args:
        image_size: Side of its square images in pixels.
        bits: Bits per code, for 2**bits codes.
        channels: Channels of the first level.
        encoder_multipliers: See `ConvEncoder`.
        encoder_blocks: Residual blocks per level.
        decoder_multipliers: See `ConvDecoder`.
        decoder_blocks: Residual blocks per level.
        groups: Groups of the group norms.
        stem: Pixels folded into channels per side.

    Source: MAGVIT-v2, arXiv:2310.05737.
    """

    name = "image"

    def __init__(
        self,
        image_size: int,
        bits: int,
        channels: int,
        encoder_multipliers: list[int],
        encoder_blocks: list[int],
        decoder_multipliers: list[int],
        decoder_blocks: list[int],
        groups: int = 32,
        stem: int = 1,
    ) -> None:
        super().__init__()
        self.image_size, self.bits = image_size, bits
        self.downsample_factor = stem * 2 ** (len(encoder_multipliers) - 1)
        self.encoder = ConvEncoder(
            channels, encoder_multipliers, encoder_blocks, bits, groups, stem
        )
        self.quant_conv = nn.Conv2d(bits, bits, 1)
        self.quantizer = LookupFreeQuantizer(bits)
        self.post_quant_conv = nn.Conv2d(bits, bits, 1)
        self.decoder = ConvDecoder(
            channels, decoder_multipliers, decoder_blocks, bits, groups, stem
        )

    @property
    def num_codes(self) -> int:
        """Number of codes, 2**bits."""
        return int(2**self.bits)

    @property
    def code_features(self) -> Float[Tensor, "N F"]:
        """Sign bits of every code."""
        codes = torch.arange(self.num_codes, device=self.quantizer.powers.device)
        return self.quantizer.vectors(codes)

    @property
    def columns(self) -> int:
        """Codes per image row."""
        return int(self.image_size // self.downsample_factor)

    def columns_for_size(self, size: int) -> int:
        """Return the codes per row of square pictures with sides of `size` pixels.

        Raises:
            OmniError: If the side is not made of whole codes.
        """
        if size % self.downsample_factor:
            raise OmniError(
                f"a picture of {size} pixels has no whole number of codes; take a multiple of "
                f"{self.downsample_factor} pixels, which the image tokenizer makes one code"
            )
        return int(size // self.downsample_factor)

    def quantize(self, images: Float[Tensor, "B 3 Y X"]) -> Quantized:
        """Encode to quantized latents, with the losses for training."""
        quantized: Quantized = self.quantizer(self.quant_conv(self.encoder(images)))
        return quantized

    def reconstruct(self, latents: Float[Tensor, "B C V W"]) -> Float[Tensor, "B 3 Y X"]:
        """Decode quantized latents."""
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images

    def encode(self, images: Float[Tensor, "B 3 Y X"]) -> Int[Tensor, "B N"]:
        """Turn pixels in [-1, 1] into codes in raster order; sides must divide by the factor."""
        return self.quantizer.codes(self.quant_conv(self.encoder(images))).flatten(1)

    def decode(self, codes: Int[Tensor, "B N"], *, rows: int) -> Float[Tensor, "B 3 Y X"]:
        """Turn codes of a grid with `rows` rows into pixels in [-1, 1]."""
        vectors = self.quantizer.vectors(codes.reshape(len(codes), rows, -1))
        return self.reconstruct(vectors.permute(0, 3, 1, 2)).clamp(-1, 1)
