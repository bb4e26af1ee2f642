"""Begin the answer to a spoken request with its transcript.

A spoken request is answered in a chain: its transcript, then the answer, given both. So the model
transfers from written requests to spoken ones. Source: SpeechGPT, arXiv:2305.11000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lightning_omni.errors import OmniError
from lightning_omni.modalities import SPEECH
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn


def check_transcript_tasks(tasks: Iterable[str]) -> None:
    """Refuse tasks whose request is not spoken, and those whose answer is a transcript already.

    Raises:
        OmniError: If any task is refused.
    """
    for name in tasks:
        task = task_named(name)
        if SPEECH not in task.inputs or task.is_transcription:
            raise OmniError(
                f"transcribe_first names '{name}' ({task.title}), whose request is not spoken; "
                "it takes tasks such as s2i, svqa and sqa"
            )


def with_transcript(sample: Sample) -> Sample:
    """Return the sample with the transcript of its request, `text` of its meta, before the answer.

    A sample that is stored with a transcript is returned unchanged.

    Raises:
        OmniError: If the sample has no transcript.
    """
    if any(part.is_transcript for part in sample.turns[-1].parts):
        return sample
    transcript = sample.meta.get("text")
    if not transcript:
        raise OmniError(
            f"sample '{sample.key}' of {sample.task} has no transcript (`text` in its meta); "
            f"prepare the data with transcripts or take {sample.task} out of transcribe_first"
        )
    return insert_transcript(sample, str(transcript))


def insert_transcript(sample: Sample, transcript: str | None = None) -> Sample:
    """Return the sample with a transcript before its answer; None for one to be generated."""
    *before, answer = sample.turns
    parts = (Part("text", text=transcript, is_transcript=True), *answer.parts)
    return replace(sample, turns=(*before, Turn(answer.role, parts)))
