"""Write down what was heard before answering it.

A spoken request is answered in a chain: its transcript, then the answer, given both. So what the
model knows of a written request serves the spoken one. Source: SpeechGPT, arXiv:2305.11000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lightning_omni.errors import OmniError
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn


def check_transcribed(tasks: Iterable[str]) -> None:
    """Refuse tasks whose request is not spoken, and asr, whose answer is a transcript already.

    Raises:
        OmniError: If there is one.
    """
    for name in tasks:
        task = task_named(name)
        if "speech" not in task.inputs or task.is_transcription:
            raise OmniError(
                f"transcribe_first names '{name}' ({task.title}), whose request is not spoken; "
                "it takes tasks such as s2i, svqa and sqa"
            )


def with_transcript(sample: Sample) -> Sample:
    """Begin the sample's answer with the transcript of its request, its meta's `text`.

    A sample that is stored with a transcript stays as it is.

    Raises:
        OmniError: If the sample has no transcript.
    """
    if any(part.is_transcript for part in sample.turns[-1].parts):
        return sample
    said = sample.meta.get("text")
    if not said:
        raise OmniError(
            f"sample '{sample.key}' of {sample.task} has no transcript (`text` in its meta); "
            f"prepare the data with transcripts or take {sample.task} out of transcribe_first"
        )
    return expecting_transcript(sample, str(said))


def expecting_transcript(sample: Sample, said: str | None = None) -> Sample:
    """Begin the sample's answer with a transcript that may still have to be written."""
    *before, answer = sample.turns
    parts = (Part("text", text=said, is_transcript=True), *answer.parts)
    return replace(sample, turns=(*before, Turn(answer.role, parts)))
