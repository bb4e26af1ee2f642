"""Any image tokenizer on disk as two functions: pixels to codes and back."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import weight_files
from lightning_omni.interop.magvitv2 import load_magvitv2
from lightning_omni.pretrained import CONFIG_FILE
from lightning_omni.tokenizers.image import ImageTokenizer


class PublishedImageTokenizer(nn.Module):
    """Encodes and decodes pictures whose sides are multiples of the downsampling factor."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, image: Float[Tensor, "B 3 Y X"]) -> Int[Tensor, "B N"]:
        """Return codes in raster order of pixels in [-1, 1].

        Raises:
            OmniError: If the shape is not one of pictures, or a side is not a multiple of the
                downsampling factor.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise OmniError(
                f"the picture is {image.dtype} of shape {tuple(image.shape)}, wanted floats in "
                "[-1, 1] of shape (B, 3, Y, X)"
            )
        factor = self.tokenizer.downsample_factor
        if image.shape[-1] % factor or image.shape[-2] % factor:
            raise OmniError(
                f"the picture has {image.shape[-2]} x {image.shape[-1]} pixels, wanted multiples "
                f"of {factor}"
            )
        return self.tokenizer.encode(image)

    @torch.inference_mode()
    def decode(
        self, codes: Int[Tensor, "B N"], *, rows: int | None = None
    ) -> Float[Tensor, "B 3 Y X"]:
        """Return pixels as the network decodes them, which may exceed [-1, 1] slightly.

        Args:
            codes: codes in raster order, from 0 on.
            rows: rows of the grid of codes; None for a square grid.

        Raises:
            OmniError: If the codes do not fill such a grid, or are outside the codebook.
        """
        if codes.ndim != 2 or codes.is_floating_point():
            raise OmniError(
                f"the codes are {codes.dtype} of shape {tuple(codes.shape)}, wanted integers of "
                "shape (B, N)"
            )
        count = codes.shape[1]
        is_given = rows is not None
        rows = round(count**0.5) if rows is None else rows
        if rows < 1 or not count or count % rows or (not is_given and rows * rows != count):
            grid = f"grid of {rows} rows" if is_given else "square grid"
            raise OmniError(f"{count} codes do not fill a {grid}; give the number of rows")
        least, most = (int(extreme) for extreme in torch.aminmax(codes))
        last = self.tokenizer.num_codes - 1
        if least < 0 or most > last:
            raise OmniError(f"codes reach from {least} to {most}, wanted 0 to {last}")
        vectors = self.tokenizer.quantizer.vectors(codes.long().reshape(len(codes), rows, -1))
        return self.tokenizer.reconstruct(vectors.permute(0, 3, 1, 2))


def load_image_tokenizer(path: str | Path) -> PublishedImageTokenizer:
    """Load an image tokenizer: an export of this package, or the published MAGVIT-v2.

    Args:
        path: folder with safetensors (and `config.json` for an export), or one such file.

    Raises:
        OmniError: If files are missing or damaged, or the weights are of another network.
    """
    path = Path(path)
    config = path / CONFIG_FILE
    if config.is_file() and "class_path" in read_json_object(config, remedy="copy it again"):
        return PublishedImageTokenizer(ImageTokenizer.from_pretrained(path)).eval()
    files = [path] if path.is_file() else weight_files(path)
    return PublishedImageTokenizer(load_magvitv2(files, about=f"MAGVIT-v2 ('{path}')")).eval()
