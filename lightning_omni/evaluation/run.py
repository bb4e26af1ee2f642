"""The `evaluate` verb: a trained model on the nine tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_omni.arguments import check_within
from lightning_omni.data.encode import ensure_codes
from lightning_omni.data.tasks import task_named
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.cases import Reply
from lightning_omni.evaluation.media import manifest_hash
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.reading import Recognizer
from lightning_omni.evaluation.reconstruction import TokenizerReconstructor
from lightning_omni.evaluation.suite import Plan, make_suite, write_results
from lightning_omni.files import make_folder
from lightning_omni.inference.omni import Answer, Omni
from lightning_omni.inference.settings import Settings
from lightning_omni.metrics.recognizer import Recognizer as WhisperRecognizer
from lightning_omni.pretrained import fingerprint
from lightning_omni.shipped import locate
from lightning_omni.types import SPLITS, Sample

log = logging.getLogger(__name__)


class OmniAnswerer:
    """Lets an `Omni` take the test with fixed sampling options; None leaves the task's own."""

    def __init__(
        self,
        omni: Omni,
        *,
        num_steps: int | None,
        guidance_scale: float | None,
        temperature: float | None,
        refresh_every: int | None = None,
    ) -> None:
        self.omni = omni
        options = {
            "num_steps": num_steps,
            "guidance_scale": guidance_scale,
            "temperature": temperature,
            "refresh_every": refresh_every,
        }
        self.options: dict[str, Any] = {k: v for k, v in options.items() if v is not None}

    def answer(self, samples: Sequence[Sample], *, seed: int) -> list[Reply]:
        """Answer a batch."""
        answers = self.omni.answer(list(samples), seed=seed, **self.options)
        return [_reply(answer) for answer in answers]


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
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    refresh_every: int | None = None,
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
        num_steps: Sampling steps; None for each task's own.
        guidance_scale: Classifier-free guidance; None for each task's own.
        temperature: Of sampling; None for each task's own.
        refresh_every: Steps between two passes over the whole prompt; None for each task's own.

    Raises:
        OmniError: If a folder, a task or a split does not exist.
    """
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    _check(tasks, splits, limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_within("gallery", gallery, 0)
    Settings(seed, num_steps, guidance_scale, temperature, refresh_every)
    make_folder(out)
    model = locate(str(model))
    omni = Omni.from_pretrained(model)
    codes = ensure_codes(
        data,
        image_tokenizer=model / "image_tokenizer",
        speech_tokenizer=model / "speech_tokenizer",
    )
    suite = make_suite(
        data,
        codes,
        recognizer=recognizer_for(tasks),
        reconstructor=TokenizerReconstructor(model),
        tasks=tasks,
    )
    plan = Plan(tasks, splits, limit, speech_limit, seed, batch_size, gallery)
    answerer = OmniAnswerer(
        omni,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        temperature=temperature,
        refresh_every=refresh_every,
    )
    with torch.inference_mode():
        measured = suite.run(answerer, plan, out)
    results = {
        "model": str(model),
        "fingerprint": fingerprint(model),
        "manifest_sha256": manifest_hash(data),
        "codes": codes.name,
        "arguments": arguments,
        **provenance(),
        **measured,
    }
    write_results(out, results)
    log.info("wrote %s", out / "results.md")
    return results


def _reply(answer: Answer) -> Reply:
    holes = answer.record.get("holes", {}).values()
    is_finished = all(hole["closed"] for hole in holes)
    return Reply(
        answer.text, answer.image, answer.speech, answer.sample_rate, is_finished=is_finished
    )


def _check(tasks: Sequence[str], splits: Sequence[str], *, limit: int) -> None:
    if not (tasks and splits):
        raise OmniError("nothing to evaluate: name at least one task and one split")
    for task in tasks:
        if not task_named(task).answers:
            raise OmniError(f"task '{task}' has no test; choose tasks with a fixed answer")
    for split in splits:
        if split not in SPLITS:
            raise OmniError(f"unknown split '{split}'; choose from {', '.join(SPLITS)}")
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
