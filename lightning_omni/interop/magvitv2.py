"""Read the published MAGVIT-v2 image tokenizer into ours."""

from __future__ import annotations

import re

from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.image import ImageTokenizer

ENCODER_BLOCKS = [4, 3, 4, 3, 4]
DECODER_BLOCKS = [4, 4, 3, 4, 3]
_RENAMED = (
    (r"^encoder\.quant_conv\.", "quant_conv."),
    (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
    (r"\.mid\.block_1\.", ".middle.0."),
    (r"\.mid\.attn_1\.", ".middle.1."),
    (r"\.mid\.block_2\.", ".middle.2."),
    (r"\.proj_out\.", ".out."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.down\.(\d)\.block\.(\d)\.", r".levels.\1.\2."),
)


def load_magvitv2(state: dict[str, Tensor], *, image_size: int = 256) -> ImageTokenizer:
    """Build the 95 M parameter tokenizer from weights with the published names.

    Args:
        state: Weights by name, as in `pytorch_model.safetensors`.
        image_size: Side of the pictures it is meant for; the network itself takes any multiple
            of 16.

    Raises:
        OmniError: If a weight is missing, superfluous or of another shape.

    Source: showlab/magvitv2, the tokenizer of Show-o, arXiv:2408.12528.
    """
    tokenizer = magvitv2_network(image_size)
    try:
        tokenizer.load_state_dict({our_name(name): value for name, value in state.items()})
    except RuntimeError as error:
        raise OmniError(f"these are not the weights of MAGVIT-v2: {error}") from error
    return tokenizer.eval()


def magvitv2_network(image_size: int = 256) -> ImageTokenizer:
    """The published tokenizer's network with weights of its own."""
    return ImageTokenizer(
        image_size,
        bits=13,
        channels=128,
        encoder_multipliers=[1, 2, 2, 4, 4],
        encoder_blocks=ENCODER_BLOCKS,
        decoder_multipliers=[1, 1, 2, 2, 4],
        decoder_blocks=DECODER_BLOCKS,
    )


def our_name(name: str) -> str:
    """Translate a published weight's name."""
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    if found := re.search(r"\.down\.(\d)\.downsample\.", name):
        level = int(found[1])
        name = name.replace(found[0], f".levels.{level}.{ENCODER_BLOCKS[level]}.")
    if found := re.search(r"\.up\.(\d)\.(block\.(\d)|upsample)\.", name):
        level = int(found[1])
        place = found[3] or str(DECODER_BLOCKS[level])
        name = name.replace(found[0], f".levels.{len(DECODER_BLOCKS) - 1 - level}.{place}.")
    return name
