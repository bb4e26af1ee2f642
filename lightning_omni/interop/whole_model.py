"""The released joint model as a folder that generates: its backbone, ids and tokenizers."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.generation.lengths import save_length_rules
from lightning_omni.generation.model_folder import RANKS, REQUEST_COLUMNS
from lightning_omni.interop.checkpoint import match_weights, read_headers
from lightning_omni.interop.native import build_meta_module_from_folder
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.qwen import QWEN
from lightning_omni.tokenizers.speech import SpeechCodec
from lightning_omni.vocab import VOCAB_FILE, Vocab

log = logging.getLogger(__name__)

SIZES = {"text": 151_643, "speech": 16_384, "image": 8_192}
"""Ids of text and codes of the release, in their order."""
REQUEST_IMAGE_SIZE = 512
"""Side in pixels of pictures in requests."""


@dataclass(frozen=True, slots=True)
class WholeModel:
    """What `generate` needs beside the weights of Omni-Diffusion's backbone.

    Attributes:
        image_tokenizer: Folder of an imported MAGVIT-v2.
        speech_tokenizer: Folder of an imported GLM-4-Voice.
        request_columns: Codes per row of a request's picture; None for those of an answer's.
    """

    image_tokenizer: Path
    speech_tokenizer: Path
    request_columns: int | None

    def write(self, folder: Path) -> None:
        """Write it.

        There are no rules for the lengths of answers, as those are fitted on training data: each
        answer needs a `response_length`.

        Args:
            folder: Folder of the model, in which weights and configuration of the backbone are.
        """
        vocab = _released_vocab()
        plain = {**vocab.to_dict(), "fingerprint": vocab.fingerprint(), RANKS: QWEN}
        if self.request_columns is not None:
            plain[REQUEST_COLUMNS] = self.request_columns
        (folder / VOCAB_FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        save_length_rules({}, folder)
        for name, source in (("image", self.image_tokenizer), ("speech", self.speech_tokenizer)):
            target = folder / f"{name}_tokenizer"
            target.mkdir()
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(source / file, target / file)


def check_whole_model(
    transformer: Transformer, image_tokenizer: Path, speech_tokenizer: Path
) -> WholeModel:
    """Return what makes a whole model of Omni-Diffusion's backbone, before anything is written.

    Args:
        transformer: The backbone.
        image_tokenizer: Folder of an imported MAGVIT-v2.
        speech_tokenizer: Folder of an imported GLM-4-Voice.

    Raises:
        OmniError: If backbone and tokenizers do not have the ids of the release, or weights of a
            tokenizer are missing or damaged.
    """
    size, rows = _released_vocab().size, transformer.embedding.tokens.num_embeddings
    if rows != size:
        raise OmniError(
            f"the backbone has {rows} ids but Omni-Diffusion has {size}; leave out the "
            "tokenizers to import a backbone alone"
        )
    image: ImageTokenizer = _read_tokenizer(image_tokenizer, ImageTokenizer, "image")
    speech: SpeechCodec = _read_tokenizer(speech_tokenizer, SpeechCodec, "speech")
    if not speech.can_decode:
        log.warning(
            "'%s' has no decoder, so the model will not speak; to let it, import glm-4-voice again "
            "with --decoder",
            speech_tokenizer,
        )
    columns = image.columns_for_size(REQUEST_IMAGE_SIZE)
    return WholeModel(
        image_tokenizer, speech_tokenizer, None if columns == image.columns else columns
    )


def _released_vocab() -> Vocab:
    return Vocab.from_sizes(SIZES, "released")


def _read_tokenizer(folder: Path, kind: type[Any], name: str) -> Any:
    """Return the tokenizer that a folder describes, without weights, if codes and weights fit."""
    tokenizer = build_meta_module_from_folder(folder)
    if not isinstance(tokenizer, kind) or tokenizer.num_codes != SIZES[name]:
        found = getattr(tokenizer, "num_codes", "no")
        raise OmniError(
            f"--{name}_tokenizer '{folder}' holds a {type(tokenizer).__name__} of {found} codes, "
            f"wanted the release's of {SIZES[name]}; import it first"
        )
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise OmniError(
            f"--{name}_tokenizer '{folder}' has no {WEIGHTS_FILE}; import the tokenizer again"
        )
    match_weights(tokenizer, read_headers([file]), str, str, about=f"'{folder}'")
    return tokenizer
