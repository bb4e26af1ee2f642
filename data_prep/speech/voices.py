"""Synthesizers that speak a user's own data, built by `class_path`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data_prep.sources import Sources
from data_prep.speech.synthesizers import Synthesizers, voice_source_and_licence

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
        self._synthesizers, chosen = Synthesizers.find_engines(wanted, sources)
        self.question_voices = [chosen[voice] for voice in question_voices]
        self.answer_voice = chosen[answer_voice]
        self.licence = "; ".join(sorted({voice_source_and_licence(v)[1] for v in chosen.values()}))

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Return a sentence at 16 kHz, trimmed and at a common loudness."""
        return self._synthesizers.synthesize(text, voice)


BUILT_IN = f"{BuiltInVoices.__module__}.{BuiltInVoices.__qualname__}"
