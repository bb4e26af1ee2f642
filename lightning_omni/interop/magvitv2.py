"""Read the published MAGVIT-v2 image tokenizer into ours."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from lightning_omni.interop.checkpoint import load_module
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.tokenizers.image import ImageTokenizer

ENCODER_BLOCKS = [4, 3, 4, 3, 4]
DECODER_BLOCKS = [4, 4, 3, 4, 3]
_RENAMED = (
    (r"^quant_conv\.", "encoder.quant_conv."),
    (r"^post_quant_conv\.", "decoder.post_quant_conv."),
    (r"\.middle\.0\.", ".mid.block_1."),
    (r"\.middle\.1\.", ".mid.attn_1."),
    (r"\.middle\.2\.", ".mid.block_2."),
    (r"\.out\.", ".proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
)


def load_magvitv2(files: list[Path], *, about: str) -> ImageTokenizer:
    """Build the 95 M parameter tokenizer from weights with the published names.

    Args:
        files: safetensors with the names of `pytorch_model.safetensors`.
        about: checkpoint's name in errors.

    Raises:
        OmniError: If a file is damaged, or a weight missing, superfluous or of another shape.

    Source: showlab/magvitv2, the tokenizer of Show-o, arXiv:2408.12528.
    """
    with MetaInit():
        tokenizer = build_magvitv2()
    load_module(tokenizer, files, native_name, published_name, about=about)
    return tokenizer.eval()


def build_magvitv2() -> ImageTokenizer:
    """Build the published tokenizer's network, newly initialised."""
    return ImageTokenizer(
        256,
        bits=13,
        channels=128,
        encoder_multipliers=[1, 2, 2, 4, 4],
        encoder_blocks=ENCODER_BLOCKS,
        decoder_multipliers=[1, 1, 2, 2, 4],
        decoder_blocks=DECODER_BLOCKS,
    )


def native_name(name: str) -> str:
    """Translate a published weight's name; unknown names are marked by a question mark."""
    return _native_names_by_published().get(name, f"?{name}")


def published_name(ours: str) -> str:
    """Return the published name of one of our weights."""
    for pattern, theirs in _RENAMED:
        ours = re.sub(pattern, theirs, ours)
    if found := re.search(r"^encoder\.levels\.(\d)\.(\d)\.", ours):
        level, index = int(found[1]), int(found[2])
        return ours.replace(
            found[0], f"encoder.{_published_layer_name('down', level, index, ENCODER_BLOCKS)}."
        )
    if found := re.search(r"^decoder\.levels\.(\d)\.(\d)\.", ours):
        level, index = len(DECODER_BLOCKS) - 1 - int(found[1]), int(found[2])
        return ours.replace(
            found[0], f"decoder.{_published_layer_name('up', level, index, DECODER_BLOCKS)}."
        )
    return ours


def _published_layer_name(side: str, level: int, index: int, blocks: list[int]) -> str:
    """Return the published name of a level's block or of its resampling layer."""
    last = f"{side}sample"
    return f"{side}.{level}.{last if index == blocks[level] else f'block.{index}'}"


@functools.cache
def _native_names_by_published() -> dict[str, str]:
    """Return our names by published ones."""
    with MetaInit():
        return {published_name(name): name for name in build_magvitv2().state_dict()}
