"""An exported joint model: everything generation needs, in one folder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_omni.data.encoding.loaded_tokenizers import load_file_tokenizers
from lightning_omni.data.make_template import make_template
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE, make_folder, read_json_object
from lightning_omni.generation.lengths import LengthRule, load_length_rules, save_length_rules
from lightning_omni.generation.presets import Presets, load_presets
from lightning_omni.modalities import modality_named
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE
from lightning_omni.tokenizers.base import FileTokenizer
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.qwen import QWEN
from lightning_omni.tokenizers.speech import SpeechCodec
from lightning_omni.tokenizers.text import RANKS_FILE, TextTokenizer
from lightning_omni.vocab import VOCAB_FILE, Vocab, read_vocab
from lightning_omni.whole_files import replace_folder_when_complete

log = logging.getLogger(__name__)

RANKS = "text_ranks"
REQUEST_COLUMNS = "request_image_columns"
VOICES_FILE = "voices.json"
ENCODER_FILE, _OLD_ENCODER_FILE = "speech_encoder.json", "hears.json"
_STALE = (ENCODER_FILE, _OLD_ENCODER_FILE, RANKS_FILE, SUMS_FILE, "length_head")
"""Names that another export may lack, or that older versions wrote."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The parts of an exported model, loaded."""

    backbone: Transformer
    template: Template
    image: ImageTokenizer
    speech: SpeechCodec
    lengths: dict[str, LengthRule]
    fingerprint: str
    voices: tuple[str, ...] = ()
    """Voices it learned to speak with; empty if that is not known."""
    presets: Presets = field(default_factory=dict)
    encoder_fingerprint: str | None = None
    """Fingerprint of the `SpeechFeatureEncoder` it was trained with; None if not known."""
    files: Mapping[str, FileTokenizer] = field(default_factory=dict)
    """Tokenizers of further modalities."""


def file_tokenizer_folders(folder: Path, vocab: Vocab) -> dict[str, Path]:
    """Return the folder of each further modality's tokenizer in a model's folder."""
    further = [name for name in vocab.modalities if modality_named(name).is_file]
    return {name: folder / f"{name}_tokenizer" for name in further}


def _find_text_ranks(folder: Path) -> str | Path:
    """The file of text ranks, or the word for those of another package."""
    named = read_json_object(folder / VOCAB_FILE, remedy="export the model again").get(RANKS)
    return str(named) if named is not None else folder / RANKS_FILE


def _read_request_columns(folder: Path) -> int | None:
    """Return the codes per row of a request's picture; None for those of an answer's."""
    path, remedy = folder / VOCAB_FILE, "export the model again"
    columns = read_json_object(path, remedy=remedy).get(REQUEST_COLUMNS)
    if columns is not None and not (isinstance(columns, int) and columns > 0):
        raise OmniError(f"'{path}' has {REQUEST_COLUMNS} {columns!r}, wanted a number; {remedy}")
    return columns


def _read_voices(folder: Path) -> tuple[str, ...]:
    path = folder / VOICES_FILE
    if not path.is_file():
        return ()
    voices = read_json_object(path, remedy="export the model again").get("voices")
    if not isinstance(voices, list) or not all(isinstance(voice, str) for voice in voices):
        raise OmniError(f"'{path}' lists no voices; export the model again")
    return tuple(voices)


def _read_encoder_fingerprint(folder: Path) -> str | None:
    paths = [folder / ENCODER_FILE, folder / _OLD_ENCODER_FILE]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    fingerprint = read_json_object(path, remedy="export the model again").get("fingerprint")
    if not isinstance(fingerprint, str):
        raise OmniError(f"'{path}' names no fingerprint; export the model again")
    return fingerprint


def write_model_folder(
    folder: Path,
    backbone: Transformer,
    weights: dict[str, Tensor],
    template: Template,
    lengths: dict[str, LengthRule],
    *,
    voices: list[str],
    image_tokenizer: Path,
    speech_tokenizer: Path,
    encoder_fingerprint: str | None,
    card: str,
    file_tokenizers: Mapping[str, Path] | None = None,
) -> Path:
    """Write an exported model, `weights` being the backbone's, in place of an earlier one.

    What was added to the earlier one, such as presets, stays.

    Raises:
        OmniError: If that fails; the earlier one is unchanged.
    """
    make_folder(folder.resolve().parent)
    with replace_folder_when_complete(folder) as partial:
        backbone.save_pretrained(partial, weights)
        vocab = template.vocab
        plain = {**vocab.to_dict(), "fingerprint": vocab.fingerprint()}
        if template.text.ranks == QWEN:  # another package's, which the folder does not hold
            plain[RANKS] = QWEN
        else:
            shutil.copyfile(template.text.ranks, partial / RANKS_FILE)
        if template.request_image_columns != template.image_columns:
            plain[REQUEST_COLUMNS] = template.request_image_columns
        _write_json(partial / VOCAB_FILE, plain)
        save_length_rules(lengths, partial)
        _write_json(partial / VOICES_FILE, {"voices": voices})
        if encoder_fingerprint is not None:
            _write_json(partial / ENCODER_FILE, {"fingerprint": encoder_fingerprint})
        sources = {"image": image_tokenizer, "speech": speech_tokenizer, **(file_tokenizers or {})}
        for name, source in sources.items():
            target = partial / f"{name}_tokenizer"
            target.mkdir()
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(source / file, target / file)
        (partial / "README.md").write_text(card, encoding="utf-8")
        _keep_additions(folder, partial)
    return folder


def _keep_additions(earlier: Path, folder: Path) -> None:
    """Copy what an earlier export has beside what is exported now."""
    for path in earlier.iterdir() if earlier.is_dir() else ():
        if path.name not in _STALE and not (folder / path.name).exists():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)


def _write_json(path: Path, plain: dict[str, Any]) -> None:
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def read_model_folder(folder: Path) -> ModelFolder:
    """Load an exported model.

    Raises:
        OmniError: If a part is missing or the parts do not fit each other.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE, VOCAB_FILE, "lengths.json"):
        if not (folder / name).is_file():
            raise OmniError(
                f"no joint model in '{folder}': {name} is missing; give the export folder of a "
                "stage run, such as runs/stage3/export"
            )
    vocab = read_vocab(folder / VOCAB_FILE)
    image = ImageTokenizer.from_pretrained(folder / "image_tokenizer")
    speech = SpeechCodec.from_pretrained(folder / "speech_tokenizer")
    files = load_file_tokenizers(file_tokenizer_folders(folder, vocab))
    for tokenizer in (image, speech, *files.values()):
        size = vocab.span(tokenizer.name).size
        if tokenizer.num_codes != size:
            raise OmniError(
                f"vocab span '{tokenizer.name}' has {size} codes but the {tokenizer.name} "
                f"tokenizer in '{folder}' has {tokenizer.num_codes}; export the model again"
            )
    template = make_template(
        vocab,
        TextTokenizer(_find_text_ranks(folder)),
        image_columns=image.columns,
        codebooks=speech.num_codebooks,
        max_tail_pads={},
        request_image_columns=_read_request_columns(folder),
    )
    weights = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    backbone = Transformer.from_pretrained(folder)
    if backbone.is_causal:
        raise OmniError(
            f"'{folder}' holds a next-token model, which cannot fill in masks; train it as a "
            "masked diffusion model first: init_from with is_causal: false"
        )
    if (folder / "length_head").is_dir():
        log.info("'%s' holds a length head, which is no longer used", folder)
    return ModelFolder(
        backbone,
        template,
        image,
        speech,
        load_length_rules(folder),
        weights,
        _read_voices(folder),
        load_presets(folder),
        _read_encoder_fingerprint(folder),
        files,
    )
