"""What a user asks for, checked before any work is done."""

from __future__ import annotations

from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASKS_BY_NAME, Task, takes_voice

_LISTED = 20


def check_answerable(task: Task) -> None:
    """Refuse a task that has no answer of its own.

    Raises:
        OmniError: Naming those that have one.
    """
    if not task.answers:
        names = ", ".join(name for name, other in TASKS_BY_NAME.items() if other.answers)
        raise OmniError(f"task '{task.name}' is for training; choose one of {names}")


def check_given(task: Task, given: dict[str, object | None]) -> None:
    """Check that a task gets what it asks for and nothing else.

    Args:
        task: What is to be done.
        given: By modality; None where the user gave nothing.

    Raises:
        OmniError: If the task has no answer, or something is missing, superfluous or empty.
    """
    check_answerable(task)
    for modality, value in given.items():
        if (value is not None) != (modality in task.asks):
            verb = "does not take" if value is not None else "needs"
            raise OmniError(
                f"task '{task.name}' ({task.summary}) {verb} {modality}; it takes "
                f"{' and '.join(task.asks) or 'nothing'}"
            )
    text = given.get("text")
    if isinstance(text, str) and not text.strip():
        raise OmniError(f"task '{task.name}' got an empty text; say what you want")


def choose_voice(task: Task, voice: str | None, known: tuple[str, ...]) -> dict[str, str]:
    """Facts of a sample about its voice: the one asked for, or one that the model knows.

    Args:
        task: What is to be done.
        voice: Asked for, or None.
        known: Voices the model learned to speak with; empty if that is not known.

    Raises:
        OmniError: If the task takes no voice, or the model does not know it.
    """
    if not takes_voice(task):
        if voice is not None:
            raise OmniError(f"task '{task.name}' ({task.summary}) takes no voice")
        return {}
    if voice is None:
        return {
            "voice": task.default_voice if task.default_voice in known or not known else known[0]
        }
    if known and voice not in known:
        names = ", ".join(known[:_LISTED])
        raise OmniError(f"the model does not speak with the voice '{voice}'; it knows {names}")
    return {"voice": voice}
