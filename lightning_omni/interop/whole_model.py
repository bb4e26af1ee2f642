"""The released joint model as a folder that generates: its backbone, ids and tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.generation.lengths import save_length_rules
from lightning_omni.generation.model_folder import RANKS, REQUEST_COLUMNS
from lightning_omni.interop.native import build_meta_module_from_folder
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.qwen import QWEN
from lightning_omni.tokenizers.speech import SpeechCodec
from lightning_omni.vocab import VOCAB_FILE, Vocab

SIZES = {"text": 151_643, "speech": 16_384, "image": 8_192}
"""Ids of text and codes of the release, in their order."""
REQUEST_IMAGE_SIZE = 512
"""Side in pixels of pictures in requests."""


def write_whole_model(
    folder: Path, transformer: Transformer, image_tokenizer: Path, speech_tokenizer: Path
) -> None:
    """Write what `generate` needs beside the weights of Omni-Diffusion's backbone.

    There are no rules for the lengths of answers, as those are fitted on training data: each answer
    needs a `response_length`.

    Args:
        folder: Folder of the model, in which weights and configuration of the backbone are.
        transformer: The backbone.
        image_tokenizer: Folder of an imported MAGVIT-v2.
        speech_tokenizer: Folder of an imported GLM-4-Voice.

    Raises:
        OmniError: If backbone and tokenizers do not have the ids of the release.
    """
    vocab = Vocab.from_sizes(SIZES, "released")
    rows = transformer.embedding.tokens.num_embeddings
    if rows != vocab.size:
        raise OmniError(
            f"the backbone has {rows} ids but Omni-Diffusion has {vocab.size}; leave out the "
            "tokenizers to import a backbone alone"
        )
    image: ImageTokenizer = _read_tokenizer(image_tokenizer, ImageTokenizer, "image")
    _read_tokenizer(speech_tokenizer, SpeechCodec, "speech")
    plain = {**vocab.to_dict(), "fingerprint": vocab.fingerprint(), RANKS: QWEN}
    columns = image.columns_for_size(REQUEST_IMAGE_SIZE)
    if columns != image.columns:
        plain[REQUEST_COLUMNS] = columns
    (folder / VOCAB_FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    save_length_rules({}, folder)
    for name, source in (("image", image_tokenizer), ("speech", speech_tokenizer)):
        target = folder / f"{name}_tokenizer"
        target.mkdir()
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(source / file, target / file)


def _read_tokenizer(folder: Path, kind: type[Any], name: str) -> Any:
    """Return the tokenizer that a folder describes, without weights, if it has the right codes."""
    tokenizer = build_meta_module_from_folder(folder)
    if not isinstance(tokenizer, kind) or tokenizer.num_codes != SIZES[name]:
        found = getattr(tokenizer, "num_codes", "no")
        raise OmniError(
            f"--{name}_tokenizer '{folder}' holds a {type(tokenizer).__name__} of {found} codes, "
            f"wanted the release's of {SIZES[name]}; import it first"
        )
    return tokenizer
