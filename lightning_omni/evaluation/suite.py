"""Benchmark suite: examples, responses of a model, predictions, scores, rows of results."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.codec_reconstruction import CodecReconstructor
from lightning_omni.evaluation.emojiworld.train_classifier import (
    NUM_STEPS,
    TrainedClassifier,
    load_or_train_classifier,
)
from lightning_omni.evaluation.examples import Example, Response, load_examples, scene_samples
from lightning_omni.evaluation.gallery import (
    GalleryItem,
    interleave_splits,
    save_gallery,
    write_gallery_index,
)
from lightning_omni.evaluation.predictions import (
    Prediction,
    Recognizer,
    ResponseParser,
    ground_truth_predictions,
    needs_recognizer,
    transcribe_prompts,
)
from lightning_omni.evaluation.random_baseline import random_baseline_predictions
from lightning_omni.evaluation.responses import ModelAdapter, OmniAdapter, generate_responses
from lightning_omni.evaluation.scorers import score_prediction
from lightning_omni.evaluation.scoring_queue import ScoringQueue
from lightning_omni.evaluation.statistics import Score
from lightning_omni.evaluation.table import ResultRow, TaskScores, build_rows, results_table
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import Omni
from lightning_omni.tasks import task_named
from lightning_omni.types import Role, Sample
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)
RESULTS = "results.json"
TABLE = "results.md"


@dataclass(frozen=True, slots=True)
class Plan:
    """Tasks, splits and sizes of an evaluation.

    Attributes:
        tasks: Names of tasks.
        splits: Names of splits; those that a task does not have are listed as missing.
        limit: Examples per task and split.
        speech_limit: Examples per task and split that need the slow recognizer.
        seed: Seed of the draw of examples, of generation and of bootstrap intervals.
        batch_size: Examples answered in one batch.
        gallery: Examples per task that are saved as files, from all splits in turn.
    """

    tasks: Sequence[str]
    splits: Sequence[str]
    limit: int
    speech_limit: int
    seed: int
    batch_size: int = 16
    gallery: int = 8

    def limit_of_task(self, task: str) -> int:
        """Return the number of examples of a task in each split."""
        return self.speech_limit if needs_recognizer(task) else self.limit


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Scores of one task and the cost of a response.

    Attributes:
        scores: One score per example.
        forwards: Mean forward passes per response.
        seconds: Mean seconds per response.
    """

    scores: list[Score]
    forwards: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Suite:
    """Examples of a data folder and everything that scores responses to them.

    Attributes:
        data: Prepared data folder.
        codes: Folder of its encoded samples.
        parser: Parser of responses.
        reconstructor: Decoder of references' codes; None leaves codec reconstruction out.
        inks: Names of the colours that silhouettes have in the data.
        classifier: Scene classifier of the parser with its accuracy; None if no task draws.
    """

    data: Location
    codes: Location
    parser: ResponseParser
    reconstructor: CodecReconstructor | None
    inks: frozenset[str]
    classifier: TrainedClassifier | None = None

    def evaluate_model(self, model: ModelAdapter, plan: Plan, out: Path) -> dict[str, Any]:
        """Evaluate a model and write `results.md` after every task, and the gallery.

        Answers are scored in a thread while the model generates those to the next tasks.

        Returns:
            Rows, records of samples, missing splits and accuracy of the scene classifier.

        Raises:
            OmniError: If the data have no such tasks and splits, or all responses to a task fail.
        """
        results = _Results(self, plan, out)
        with ScoringQueue() as scoring:
            for task in plan.tasks:
                answered = []
                for split in plan.splits:
                    examples, pool = self.draw_examples(task, split, plan)
                    if not examples:
                        results.missing.append({"task": task, "split": split})
                        continue
                    log.info("evaluating %s on %s: %d of %d", task, split, len(examples), len(pool))
                    responses = generate_responses(
                        model,
                        examples,
                        batch_size=plan.batch_size,
                        seed=plan.seed,
                        name=f"{task} on {split}",
                    )
                    answered.append(_Answered(split, examples, responses, pool))
                scoring.submit(partial(results.add_task, task, answered))
        if not results.rows:
            raise OmniError(
                f"no test samples of tasks {list(plan.tasks)}, splits {list(plan.splits)} in "
                f"'{self.codes}'; name tasks and splits that the data has"
            )
        write_gallery_index(out, results.entries)
        return {
            "rows": [row.to_json() for row in results.rows],
            "missing": results.missing,
            "samples": results.samples,
            "scene_classifier": self.classifier.accuracy_report() if self.classifier else None,
        }

    def draw_examples(
        self, task: str, split: str, plan: Plan
    ) -> tuple[list[Example], list[Sample]]:
        """Return examples of a task and split, and all samples that they were drawn from."""
        limit = plan.limit_of_task(task)
        return load_examples(self.data, self.codes, task, split, limit=limit, seed=plan.seed)

    def draw_task_examples(self, task: str, plan: Plan) -> list[Example]:
        """Return examples of a task in the one split of a plan.

        Raises:
            OmniError: If there are none.
        """
        (split,) = plan.splits
        examples, _ = self.draw_examples(task, split, plan)
        if not examples:
            raise OmniError(
                f"task '{task}' has no samples in '{split}'; leave it out or choose another split"
            )
        return examples

    def score_responses(
        self, task: str, examples: Sequence[Example], responses: Sequence[Response]
    ) -> list[Score]:
        """Score the responses to examples."""
        return self._score_predictions(task, examples, self.parser.parse(task, responses))

    def score_with_baselines(
        self,
        task: str,
        split: str,
        examples: Sequence[Example],
        responses: Sequence[Response],
        pool: Sequence[Sample],
        *,
        seed: int,
    ) -> TaskScores:
        """Score responses, and likewise ground truth, codec reconstruction and random baseline."""
        references = ground_truth_predictions(task, examples, self.parser)
        baseline = random_baseline_predictions(
            task, examples, pool=pool, references=references, seed=seed
        )
        return TaskScores(
            task,
            split,
            examples,
            self.score_responses(task, examples, responses),
            self._score_predictions(task, examples, references),
            self._score_predictions(task, examples, self._codec_predictions(task, examples)),
            [self._score_predictions(task, examples, draw) for draw in baseline],
        )

    def _score_predictions(
        self, task: str, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> list[Score]:
        if not predictions:
            return []
        pairs = zip(examples, predictions, strict=True)
        return [score_prediction(task, example, found, inks=self.inks) for example, found in pairs]

    def _codec_predictions(self, task: str, examples: Sequence[Example]) -> list[Prediction]:
        """Parse the decoded codes of references; of prompts for speech recognition."""
        is_transcription = task_named(task).is_transcription
        has_media = {"image", "speech"} & set(task_named(task).outputs)
        if self.reconstructor is None or not (has_media or is_transcription):
            return []
        role: Role = "user" if is_transcription else "assistant"
        decoded = [self.reconstructor.decode(e.sample, role) for e in examples]
        if is_transcription:
            return transcribe_prompts(decoded, self.parser)
        return self.parser.parse(task, decoded)

    def gallery_items(
        self, scores: TaskScores, responses: Sequence[Response], *, limit: int
    ) -> list[GalleryItem]:
        """Return the first examples with their responses, for the gallery."""
        decode = self.reconstructor.decode if self.reconstructor else None
        rows = zip(scores.examples, responses, scores.model, strict=True)
        return [
            GalleryItem(
                scores.split,
                example,
                response,
                found,
                decode(example.sample, "user") if decode else None,
                decode(example.sample, "assistant") if decode else None,
            )
            for example, response, found in list(rows)[:limit]
        ]

    def classifier_notes(self) -> list[str]:
        """Return what a table of results says of the scene classifier."""
        return [self.classifier.accuracy_note()] if self.classifier else []


@dataclass(frozen=True, slots=True)
class _Answered:
    """Examples of one split with the responses to them, and all samples they were drawn from."""

    split: str
    examples: Sequence[Example]
    responses: Sequence[Response]
    pool: Sequence[Sample]


class _Results:
    """What an evaluation has found so far.

    Args:
        suite: What scores responses.
        plan: Plan of the evaluation.
        out: Folder for the table and the gallery.
    """

    def __init__(self, suite: Suite, plan: Plan, out: Path) -> None:
        self.suite, self.plan, self.out = suite, plan, out
        self.rows: list[ResultRow] = []
        self.samples: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.entries: list[dict[str, Any]] = []

    def add_task(self, task: str, answered: Sequence[_Answered]) -> None:
        """Score the responses to a task; write the table, as a later task may be interrupted."""
        items: list[GalleryItem] = []
        for one in answered:
            scores = self.suite.score_with_baselines(
                task, one.split, one.examples, one.responses, one.pool, seed=self.plan.seed
            )
            self.rows.extend(build_rows(scores, seed=self.plan.seed))
            self.samples.extend(_sample_records(scores))
            items.extend(self.suite.gallery_items(scores, one.responses, limit=self.plan.gallery))
        shown = interleave_splits(items, self.plan.splits, self.plan.gallery)
        self.entries.extend(save_gallery(self.out, task, shown))
        if self.rows:
            table = results_table(self.rows, notes=self.suite.classifier_notes())
            write_text(self.out / TABLE, table)


def load_suite(
    data: Location,
    codes: Location,
    *,
    recognizer: Recognizer | None,
    reconstructor: CodecReconstructor | None,
    tasks: Iterable[str],
    classifier_steps: int = NUM_STEPS,
) -> Suite:
    """Load what scores the tasks; the scene classifier is trained if none is cached.

    Args:
        data: Prepared data folder.
        codes: Folder of its encoded samples.
        recognizer: Speech recognizer; None if no task needs one.
        reconstructor: Decoder of references' codes; None leaves codec reconstruction out.
        tasks: Names of the tasks.
        classifier_steps: Steps of the first training of the scene classifier.
    """
    train = scene_samples(data, "train")
    inks = frozenset(str(s.meta["ink"]) for s in train if s.meta.get("ink"))
    trained = None
    if any("image" in task_named(task).outputs for task in tasks):
        val = scene_samples(data, "val")
        trained = load_or_train_classifier(data, train, val, num_steps=classifier_steps)
    parser = ResponseParser(recognizer, trained.classifier if trained else None)
    return Suite(data, codes, parser, reconstructor, inks, trained)


@torch.inference_mode()
def evaluate_task(
    omni: Omni,
    suite: Suite,
    plan: Plan,
    task: str,
    examples: Sequence[Example],
    config: GenerationConfig,
) -> TaskResult:
    """Answer the examples of a task with one generation config and score the responses.

    Raises:
        OmniError: If every response failed.
    """
    model = OmniAdapter(omni, config)
    responses = generate_responses(
        model,
        examples,
        batch_size=plan.batch_size,
        seed=plan.seed,
        name=f"{task} on {', '.join(plan.splits)}",
    )
    return TaskResult(
        suite.score_responses(task, examples, responses),
        statistics.fmean(r["forwards"] for r in model.records),
        statistics.fmean(r["seconds"] for r in model.records),
    )


def _sample_records(scores: TaskScores) -> list[dict[str, Any]]:
    return [
        {
            "task": scores.task,
            "split": scores.split,
            "key": example.sample.key,
            "metrics": found.metrics,
            "failure": found.failure,
            "output": found.output,
            "request": example.prompt.text,
            "ground_truth": example.reference.text,
        }
        for example, found in zip(scores.examples, scores.model, strict=True)
    ]
