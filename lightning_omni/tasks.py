"""The table of tasks: what a request and its answer hold, and how they are worded and scored.

A new task is one more entry at the end of `TASKS`; everything else reads this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_omni.errors import OmniError, did_you_mean

Baseline = Literal["shuffled_text", "shuffled_media", "most_common_answer"]
Breakdown = Literal["voice", "scene", "question"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How the answers of a task are evaluated.

    Attributes:
        scorer: Name of the scorer in `evaluation.scorers`.
        metric: Primary metric of that scorer.
        breakdown: Kind of group the primary metric is also reported for.
        baseline: How the random baseline guesses: true texts or media of other samples, or the most
            common answer to the same kind of question.
        baseline_source: What the baseline's guesses are, in words.
        upper_bound: What the upper bound is measured on, in words.
    """

    scorer: str
    metric: str
    breakdown: Breakdown
    baseline: Baseline
    baseline_source: str
    upper_bound: str = "the true text"


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: Name in shards, recipes and on the command line.
        title: Name for people.
        inputs: Modalities of the user's content, in order.
        outputs: Modalities of the answer, in order; each is one answer part.
        instruction: Text before the user's content; `{voice}` is filled from the sample.
        default_voice: Voice in the instruction where a sample names none.
        is_transcription: Whether the answer is the transcript of the request.
        released_system: System message before the task in the released template.
        released_instruction: Line before the user's content in the released template.
        has_released_instruction: Whether the release's data holds that line too; where it does not,
            the line is ours.
        scoring: How its answers are evaluated; None for a task of training only.
    """

    name: str
    title: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    instruction: str = ""
    default_voice: str = ""
    is_transcription: bool = False
    released_system: str = ""
    released_instruction: str = ""
    has_released_instruction: bool = True
    scoring: Scoring | None = None

    @property
    def takes_voice(self) -> bool:
        """Whether the instruction names the voice to speak with."""
        return "{voice}" in self.instruction


def _question_scoring(scorer: str, metric: str, upper_bound: str = "the true text") -> Scoring:
    source = "the most common answer of the split to the same kind of question"
    return Scoring(scorer, metric, "question", "most_common_answer", source, upper_bound)


_SCENES = Scoring(
    scorer="scene",
    metric="attributes",
    breakdown="scene",
    baseline="shuffled_media",
    baseline_source="ground-truth images as the scene classifier sees them",
    upper_bound="the scene classifier on the ground-truth images of the same captions",
)
_TEXT_ANSWER = _question_scoring("text_answer", "exact")
_SPOKEN_ANSWER = _question_scoring(
    "spoken_answer", "spoken", "the true text; the recognizer on the true spoken answers"
)

TASKS = (
    Task(
        "asr",
        title="speech recognition",
        inputs=("speech",),
        outputs=("text",),
        instruction="write ",
        is_transcription=True,
        released_instruction="Convert the speech to text.",
        scoring=Scoring(
            scorer="transcript",
            metric="wer",
            breakdown="voice",
            baseline="shuffled_text",
            baseline_source="transcripts",
            upper_bound="the recognizer on the same recordings",
        ),
    ),
    Task(
        "tts",
        title="text to speech",
        inputs=("text",),
        outputs=("speech",),
        instruction="say {voice} ",
        default_voice="flite-rms",
        released_instruction="Convert the text to speech.",
        scoring=Scoring(
            scorer="speech",
            metric="wer",
            breakdown="voice",
            baseline="shuffled_media",
            baseline_source="ground-truth recordings as the recognizer transcribes them",
            upper_bound="the recognizer on the ground-truth recordings of the same sentences",
        ),
    ),
    Task(
        "t2i",
        title="text to image",
        inputs=("text",),
        outputs=("image",),
        instruction="draw ",
        released_instruction="Generate an image based on the provided text description.",
        scoring=_SCENES,
    ),
    Task(
        "caption",
        title="image captioning",
        inputs=("image",),
        outputs=("text",),
        instruction="describe ",
        released_instruction="Describe the image.",
        has_released_instruction=False,
        scoring=Scoring(
            scorer="caption",
            metric="attributes",
            breakdown="scene",
            baseline="shuffled_text",
            baseline_source="captions",
        ),
    ),
    Task(
        "vqa",
        title="visual question answering",
        inputs=("text", "image"),
        outputs=("text",),
        scoring=_TEXT_ANSWER,
    ),
    Task(
        "s2i",
        title="speech to image",
        inputs=("speech",),
        outputs=("image",),
        instruction="draw ",
        released_system="Please generate an image based on the input audio.",
        scoring=_SCENES,
    ),
    Task(
        "svqa",
        title="spoken visual question answering",
        inputs=("speech", "image"),
        outputs=("text", "speech"),
        instruction="answer ",
        released_system="Please response the input audio based on the given image.",
        scoring=_SPOKEN_ANSWER,
    ),
    Task(
        "sqa",
        title="spoken question answering",
        inputs=("speech",),
        outputs=("text", "speech"),
        instruction="answer ",
        released_system="Please response the input audio.",
        scoring=_SPOKEN_ANSWER,
    ),
    Task(
        "tqa",
        title="text question answering",
        inputs=("text",),
        outputs=("text",),
        scoring=_TEXT_ANSWER,
    ),
    Task("chat", title="free conversation in the turns given"),
)
"""All tasks. `Batch.tasks` holds indices into this table, so entries keep their order."""

TASKS_BY_NAME = {task.name: task for task in TASKS}
TASK_NAMES = tuple(TASKS_BY_NAME)
"""Names of the tasks, in the order of their indices."""


def task_named(name: str) -> Task:
    """Return the task of a name.

    Raises:
        OmniError: If there is no such task; the message lists the existing ones.
    """
    if not isinstance(name, str):
        raise OmniError(f"the task is {name!r}, wanted one of {', '.join(TASK_NAMES)}")
    if name not in TASKS_BY_NAME:
        hint = did_you_mean(name, TASK_NAMES)
        raise OmniError(f"unknown task '{name}'{hint}; choose one of {', '.join(TASK_NAMES)}")
    return TASKS_BY_NAME[name]


def scoring_of_task(task: str) -> Scoring:
    """Return how the answers of a task are scored.

    Raises:
        OmniError: If the task is unknown or has no scorer.
    """
    scoring = task_named(task).scoring
    if scoring is None:
        raise OmniError(f"task '{task}' has no test; choose tasks with a fixed answer")
    return scoring
