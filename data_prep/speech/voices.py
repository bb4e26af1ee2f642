"""Synthesizers that speak a user's own data, built by `class_path`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data_prep.hashing import sha1_hex
from data_prep.sources import Sources
from data_prep.speech.synthesizers import Synthesizers, voice_source
from lightning_omni.errors import OmniError
from lightning_omni.recipe import read_yaml

_ACCENTS = ("en-us", "en", "en-gb-x-rp")
_SPEAKERS = ("", *(f"-m{n}" for n in range(1, 9)), *(f"-f{n}" for n in range(1, 6)))
ESPEAK_VOICES = tuple(f"espeak-{accent}{speaker}" for accent in _ACCENTS for speaker in _SPEAKERS)
"""Forty-two English voices of espeak-ng: three accents by fourteen speakers."""


@runtime_checkable
class Synthesizer(Protocol):
    """What a class must offer that `prep-data --speak` takes.

    Attributes:
        question_voices: Names of the voices of questions and captions; each is drawn by its key.
        answer_voice: Name of the one voice of all answers.
        licence: Licence of its speech, for the attribution.
    """

    question_voices: Sequence[str]
    answer_voice: str
    licence: str

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Return a sentence as 16 kHz mono samples in [-1, 1], Float[T], the same in every call.

        Raises:
            OmniError: If the text cannot be spoken; the sample is left out and counted.
        """


class BuiltInVoices:
    """The voices of espeak-ng, which is installed with the extra `prep`, and of flite.

    Args:
        question_voices: Names such as `espeak-en-us`, `espeak-en-us-f3` or `flite-slt`.
        answer_voice: Name of the voice of answers.
        cache: Folder where flite is looked for if it is not installed.

    Source: the voices stand for the 1,000 cloned voices of questions and the one voice of answers
    of arXiv:2603.06577v1, section 3.3.
    """

    def __init__(
        self,
        question_voices: Sequence[str] = ESPEAK_VOICES,
        answer_voice: str = "espeak-en-us",
        cache: str = "~/.cache/lightning_omni",
    ) -> None:
        wanted = {*question_voices, answer_voice}
        sources = Sources(Path(cache).expanduser(), online=False)
        self._synthesizers, chosen = Synthesizers.find(wanted, sources)
        self.question_voices = [chosen[voice] for voice in question_voices]
        self.answer_voice = chosen[answer_voice]
        self.licence = "; ".join(sorted({voice_source(v)[1] for v in chosen.values()}))

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Return a sentence at 16 kHz, trimmed and at a common loudness."""
        return self._synthesizers.synthesize(text, voice)


BUILT_IN = f"{BuiltInVoices.__module__}.{BuiltInVoices.__qualname__}"


def read_synthesizer_config(given: str) -> dict[str, Any]:
    """Return `class_path` and `init_args` of a class's dotted path or of a YAML file of both.

    Raises:
        OmniError: If the file cannot be read or names no class.
    """
    is_file = given.endswith((".yaml", ".yml"))
    plain = read_yaml(Path(given)) if is_file else {"class_path": given}
    if not isinstance(plain, dict) or not isinstance(plain.get("class_path"), str):
        raise OmniError(f"'{given}' has no class_path; wanted class_path and init_args")
    arguments = plain.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise OmniError(f"init_args of '{given}' is {arguments!r}, wanted `name: value` lines")
    return {"class_path": plain["class_path"], "init_args": arguments}


def build_synthesizer(config: dict[str, Any]) -> Synthesizer:
    """Build a synthesizer of `class_path` and `init_args`; the class may be the user's own.

    Raises:
        OmniError: If there is no such class, its arguments do not fit, or it is no synthesizer.
    """
    path = str(config["class_path"])
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OmniError(f"no class '{path}' ({error}); give --synthesizer MODULE.CLASS") from error
    try:
        built = cls(**config["init_args"])
    except TypeError as error:
        raise OmniError(f"'{path}' cannot be built ({error}); correct its init_args") from error
    if not isinstance(built, Synthesizer) or not built.question_voices:
        raise OmniError(
            f"'{path}' is no synthesizer; wanted question_voices, answer_voice, licence and "
            "synthesize(text, voice)"
        )
    return built


def clip_source(config: dict[str, Any], synthesizer: Synthesizer, voice: str) -> tuple[str, str]:
    """Return the source and the licence of the speech of a voice."""
    if isinstance(synthesizer, BuiltInVoices):
        return voice_source(voice)
    return config["class_path"], synthesizer.licence


def cache_folder(config: dict[str, Any], cache: Path) -> Path:
    """Return the folder of a synthesizer's clips, another one for other arguments."""
    if config["class_path"] == BUILT_IN:
        return cache / "speech"
    return cache / f"speech-{sha1_hex(sorted(config.items()))[:12]}"
