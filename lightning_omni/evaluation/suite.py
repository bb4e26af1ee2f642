"""Ask, read, judge: the evaluation of any answerer on the test splits of a prepared folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_omni.data.shards import read_samples
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.answerers import Answerer, Reconstructor, answer_all
from lightning_omni.evaluation.emojiworld.train_classifier import NUM_STEPS, ensure_oracle
from lightning_omni.evaluation.examples import Case, Reply, load_cases
from lightning_omni.evaluation.gallery import Exhibit, save_gallery, write_index
from lightning_omni.evaluation.outcome import Outcome
from lightning_omni.evaluation.predictions import (
    Reader,
    Reading,
    Recognizer,
    hear_questions,
    reference_readings,
)
from lightning_omni.evaluation.random_baseline import chance_readings
from lightning_omni.evaluation.scorers import judge
from lightning_omni.evaluation.table import Row, Scored, build_rows, markdown
from lightning_omni.tasks import task_named
from lightning_omni.types import Role, Sample

log = logging.getLogger(__name__)
RESULTS = "results.json"
TABLE = "results.md"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked.

    Attributes:
        tasks: Tasks, as in the shards.
        splits: Splits, as in the shards; those that a task does not have are listed as missing.
        limit: Cases per task and split.
        speech_limit: The same for tasks with spoken answers and asr, where the recognizer is slow.
        seed: Of the choice of cases, of the answers and of the intervals.
        batch_size: Cases answered at once.
        gallery: Cases kept as files per task, spread over its splits.
    """

    tasks: Sequence[str]
    splits: Sequence[str]
    limit: int
    speech_limit: int
    seed: int
    batch_size: int = 16
    gallery: int = 8

    def limit_of(self, task: str) -> int:
        """Cases of a task in each split."""
        is_slow = "speech" in task_named(task).answers or task == "asr"
        return self.speech_limit if is_slow else self.limit


@dataclass(frozen=True, slots=True)
class Suite:
    """Everything that judges; the answerer is given to `run`."""

    data: Path
    codes: Path
    reader: Reader
    reconstructor: Reconstructor | None
    inks: frozenset[str]

    def run(self, answerer: Answerer, plan: Plan, out: Path) -> dict[str, Any]:
        """Evaluate, write `results.md` after every task and the gallery, and return the results."""
        rows: list[Row] = []
        samples: list[dict[str, Any]] = []
        missing: list[dict[str, str]] = []
        entries: list[dict[str, Any]] = []
        for task in plan.tasks:
            exhibits: list[Exhibit] = []
            for split in plan.splits:
                cases, pool = self.cases(task, split, plan)
                if not cases:
                    missing.append({"task": task, "split": split})
                    continue
                log.info("evaluating %s on %s: %d of %d", task, split, len(cases), len(pool))
                replies = answer_all(answerer, cases, batch_size=plan.batch_size, seed=plan.seed)
                require_answers(task, split, replies)
                scored = self.score(task, split, cases, replies, pool, seed=plan.seed)
                rows.extend(build_rows(scored, seed=plan.seed))
                samples.extend(_records(scored))
                exhibits.extend(self._exhibits(scored, replies, plan))
            entries.extend(save_gallery(out, task, _spread(exhibits, plan)))
            if rows:  # what is known, should the rest never end
                (out / TABLE).write_text(markdown(rows))
        if not rows:
            raise OmniError(
                f"no test samples of tasks {list(plan.tasks)}, splits {list(plan.splits)} in "
                f"'{self.codes}'; name tasks and splits that the data has"
            )
        results = {"rows": [asdict(r) for r in rows], "missing": missing, "samples": samples}
        write_index(out, entries)
        return results

    def score(
        self,
        task: str,
        split: str,
        cases: Sequence[Case],
        replies: Sequence[Reply],
        pool: Sequence[Sample],
        *,
        seed: int,
    ) -> Scored:
        """Judge replies, and by the same judges the truth, its reconstruction and guesses."""
        references = reference_readings(task, cases, self.reader)
        guesses = chance_readings(task, cases, pool=pool, references=references, seed=seed)
        return Scored(
            task,
            split,
            cases,
            self.judge(task, cases, replies),
            self._judge(task, cases, references),
            self._judge(task, cases, self._reconstructed(task, cases)),
            [self._judge(task, cases, guess) for guess in guesses],
        )

    def cases(self, task: str, split: str, plan: Plan) -> tuple[list[Case], list[Sample]]:
        """Cases of a task and split, and all that they were picked from."""
        limit = plan.limit_of(task)
        return load_cases(self.data, self.codes, task, split, limit=limit, seed=plan.seed)

    def judge(self, task: str, cases: Sequence[Case], replies: Sequence[Reply]) -> list[Outcome]:
        """What each reply earns."""
        return self._judge(task, cases, self.reader.read(task, replies))

    def _judge(
        self, task: str, cases: Sequence[Case], readings: Sequence[Reading]
    ) -> list[Outcome]:
        if not readings:
            return []
        pairs = zip(cases, readings, strict=True)
        return [judge(task, case, reading, inks=self.inks) for case, reading in pairs]

    def _reconstructed(self, task: str, cases: Sequence[Case]) -> list[Reading]:
        """Read what the tokenizers make of the truth; for asr, of the question."""
        has_media = {"image", "speech"} & set(task_named(task).answers)
        if self.reconstructor is None or not (has_media or task == "asr"):
            return []
        role: Role = "user" if task == "asr" else "assistant"
        replies = [self.reconstructor.decode(c.sample, role) for c in cases]
        if task == "asr":
            return hear_questions(replies, self.reader)
        return self.reader.read(task, replies)

    def _exhibits(self, scored: Scored, replies: Sequence[Reply], plan: Plan) -> list[Exhibit]:
        decode = self.reconstructor.decode if self.reconstructor else None
        rows = zip(scored.cases, replies, scored.model, strict=True)
        return [
            Exhibit(
                scored.split,
                case,
                reply,
                outcome,
                decode(case.sample, "user") if decode else None,
                decode(case.sample, "assistant") if decode else None,
            )
            for case, reply, outcome in list(rows)[: plan.gallery]
        ]


def require_answers(task: str, split: str, replies: Sequence[Reply]) -> None:
    """Stop where nothing works: numbers would only say so many times over."""
    errors = [reply.error for reply in replies if reply.error]
    if len(errors) == len(replies):
        raise OmniError(f"every answer to {task} on {split} failed, the first with: {errors[0]}")


def make_suite(
    data: Path,
    codes: Path,
    *,
    recognizer: Recognizer | None,
    reconstructor: Reconstructor | None,
    tasks: Iterable[str],
    oracle_steps: int = NUM_STEPS,
) -> Suite:
    """Gather the judges that the tasks need; trains the scene oracle if none is kept yet."""
    train = [s for task in ("t2i", "caption") for s in read_samples(data / "tasks", task, "train")]
    scenes = [s for s in train if s.meta.get("set") == "scene"]
    inks = frozenset(str(s.meta["ink"]) for s in scenes if s.meta.get("ink"))
    oracle = None
    if any("image" in task_named(task).answers for task in tasks):
        val = [s for task in ("t2i", "caption") for s in read_samples(data / "tasks", task, "val")]
        oracle = ensure_oracle(data, scenes, val, num_steps=oracle_steps)
    return Suite(data, codes, Reader(recognizer, oracle), reconstructor, inks)


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Write `results.json`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _records(scored: Scored) -> list[dict[str, Any]]:
    return [
        {
            "task": scored.task,
            "split": scored.split,
            "key": case.sample.key,
            "metrics": outcome.metrics,
            "failure": outcome.failure,
            "output": outcome.output,
            "asked": case.asked.text,
            "wanted": case.wanted.text,
        }
        for case, outcome in zip(scored.cases, scored.model, strict=True)
    ]


def _spread(exhibits: Sequence[Exhibit], plan: Plan) -> list[Exhibit]:
    """Take turns among the splits until the gallery is full."""
    queues = [[e for e in exhibits if e.split == split] for split in plan.splits]
    turns = max((len(q) for q in queues), default=0)
    mixed = [q[i] for i in range(turns) for q in queues if i < len(q)]
    return mixed[: plan.gallery]
