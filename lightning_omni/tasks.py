"""The nine tasks as declarations: what the user turn says and which holes the answer has."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.errors import OmniError, did_you_mean


@dataclass(frozen=True, slots=True)
class Task:
    """A task's template.

    Attributes:
        name: As used in shards, recipes and on the command line.
        instruction: Words put before the user's content; `{voice}` is filled from the sample.
        asks: Modalities of the user's content, in order; the instruction leads.
        answers: Modalities of the answer, in order; each becomes one hole.
        summary: One line for people.
    """

    name: str
    instruction: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    summary: str


def takes_voice(task: Task) -> bool:
    """Tell whether the task is told the voice to speak with."""
    return "{voice}" in task.instruction


_ALL = (
    Task("asr", "write ", ("speech",), ("text",), "speech recognition"),
    Task("tts", "say {voice} ", ("text",), ("speech",), "text to speech"),
    Task("t2i", "draw ", ("text",), ("image",), "text to image"),
    Task("caption", "describe ", ("image",), ("text",), "image captioning"),
    Task("vqa", "", ("text", "image"), ("text",), "visual question answering"),
    Task("s2i", "draw ", ("speech",), ("image",), "speech to image"),
    Task(
        "svqa",
        "answer ",
        ("speech", "image"),
        ("text", "speech"),
        "spoken visual question answering",
    ),
    Task("sqa", "answer ", ("speech",), ("text", "speech"), "spoken question answering"),
    Task("tqa", "", ("text",), ("text",), "text question answering"),
    Task("chat", "", (), (), "free conversation in the turns given"),
)
TASKS_BY_NAME = {task.name: task for task in _ALL}


def task_named(name: str) -> Task:
    """Look a task up.

    Raises:
        OmniError: If there is no such task; the message lists those there are.
    """
    if name not in TASKS_BY_NAME:
        hint = did_you_mean(name, TASKS_BY_NAME)
        raise OmniError(f"unknown task '{name}'{hint}; choose one of {', '.join(TASKS_BY_NAME)}")
    return TASKS_BY_NAME[name]
