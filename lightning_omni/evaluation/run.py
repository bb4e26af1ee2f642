"""The `evaluate` verb: a trained model on the nine tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.encode import ensure_codes
from lightning_omni.errors import OmniError, check_within
from lightning_omni.evaluation.examples import Reply
from lightning_omni.evaluation.media import manifest_hash
from lightning_omni.evaluation.predictions import Recognizer
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.reconstruction import TokenizerReconstructor
from lightning_omni.evaluation.suite import Plan, Suite, make_suite, write_results
from lightning_omni.files import make_folder
from lightning_omni.generation.config import Sampling, check_seed
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.generation.plain_sampling import to_plain
from lightning_omni.generation.unused_options import check_used, scope_of_tasks
from lightning_omni.metrics.recognizer import Recognizer as WhisperRecognizer
from lightning_omni.pretrained import fingerprint, locate
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.speech_features import ContinuousSpeech
from lightning_omni.types import SPLITS, Sample

log = logging.getLogger(__name__)


class OmniAnswerer:
    """Lets an `Omni` take the test; `records` gathers what its answers say of themselves."""

    def __init__(self, omni: Omni, sampling: Sampling) -> None:
        self.omni, self.sampling = omni, sampling
        self.records: list[dict[str, Any]] = []

    def answer(self, samples: Sequence[Sample], *, seed: int) -> list[Reply]:
        """Answer a batch."""
        answers = self.omni.answer(
            list(samples), seed=seed, sampling=self.sampling, may_be_unused=True
        )
        self.records += [answer.record for answer in answers]
        return [reply_of(answer) for answer in answers]


def evaluate(
    *,
    model: Path,
    data: Path,
    out: Path,
    tasks: list[str],
    splits: list[str],
    limit: int,
    speech_limit: int,
    seed: int,
    batch_size: int = 16,
    gallery: int = 8,
    sampling: Sampling | None = None,
    continuous_speech: ContinuousSpeech | None = None,
) -> dict[str, Any]:
    """Evaluate an exported model and write `results.json`, `results.md` and a gallery.

    Args:
        model: Folder that training exported.
        data: Folder written by prep-data; its media are encoded if they are not yet.
        out: Folder for the results.
        tasks: Tasks to evaluate.
        splits: Test splits; those a task does not have are reported as missing.
        limit: Cases per task and split, chosen by the seed.
        speech_limit: The same where the recognizer must listen.
        seed: Of the choice of cases, of sampling and of intervals.
        batch_size: Cases answered at once.
        gallery: Cases kept as files per task.
        sampling: How to sample; None for the defaults.
        continuous_speech: By what a model with a projector hears, as in its recipe.

    Raises:
        OmniError: If a folder, a task or a split does not exist.
    """
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    sampling = sampling or Sampling()
    arguments["sampling"] = to_plain(sampling)
    arguments["continuous_speech"] = continuous_speech and continuous_speech.fingerprint()
    check_wanted(tasks, splits, limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_within("gallery", gallery, 0)
    check_seed(seed, runs=max(limit, speech_limit))
    check_used(sampling, scope_of_tasks(tasks))
    make_folder(out)
    model = locate(str(model))
    omni, suite = prepare(model, data, tasks, continuous_speech)
    plan = Plan(tasks, splits, limit, speech_limit, seed, batch_size, gallery)
    answerer = OmniAnswerer(omni, sampling)
    with torch.inference_mode():
        measured = suite.run(answerer, plan, out)
    results = {
        "model": str(model),
        "fingerprint": fingerprint(model),
        "manifest_sha256": manifest_hash(data),
        "codes": suite.codes.name,
        "arguments": arguments,
        **provenance(),
        **measured,
    }
    write_results(out, results)
    log.info("wrote %s", out / "results.md")
    return results


def prepare(
    model: Path,
    data: Path,
    tasks: Sequence[str],
    continuous_speech: ContinuousSpeech | None = None,
) -> tuple[Omni, Suite]:
    """Load a model and everything that judges its answers to the tasks."""
    omni = Omni.from_pretrained(model, continuous_speech=continuous_speech)
    codes = ensure_codes(
        data,
        image_tokenizer=model / "image_tokenizer",
        speech_tokenizer=model / "speech_tokenizer",
        continuous_speech=continuous_speech,
    )
    suite = make_suite(
        data,
        codes,
        recognizer=recognizer_for(tasks),
        reconstructor=TokenizerReconstructor(model),
        tasks=tasks,
    )
    return omni, suite


def reply_of(answer: Answer) -> Reply:
    """An answer as people perceive it."""
    holes = answer.record.get("holes", {}).values()
    is_finished = all(hole["closed"] for hole in holes)
    return Reply(
        answer.text, answer.image, answer.speech, answer.sample_rate, is_finished=is_finished
    )


def check_wanted(tasks: Sequence[str], splits: Sequence[str], *, limit: int) -> None:
    """Refuse tasks and splits that there are not, and those named twice.

    Raises:
        OmniError: If so.
    """
    if not (tasks and splits):
        raise OmniError("nothing to evaluate: name at least one task and one split")
    for task in tasks:
        if not task_named(task).answers:
            raise OmniError(f"task '{task}' has no test; choose tasks with a fixed answer")
    for split in splits:
        if split not in SPLITS:
            raise OmniError(f"unknown split '{split}'; choose from {', '.join(SPLITS)}")
    twice = {name for name in (*tasks, *splits) if [*tasks, *splits].count(name) > 1}
    if twice:
        raise OmniError(f"{', '.join(sorted(twice))} named twice; name each task and split once")
    if limit < 1:
        raise OmniError(f"limit is {limit}, wanted at least 1 case per task and split")


def recognizer_for(tasks: Sequence[str]) -> Recognizer | None:
    """Load the recognizer if any task needs one.

    Raises:
        OmniError: If it is not installed.
    """
    is_heard = any("speech" in task_named(t).answers or t == "asr" for t in tasks)
    if not is_heard:
        return None
    return WhisperRecognizer()
