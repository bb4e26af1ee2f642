"""The `evaluate` verb: a trained model on the test splits of the nine tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_omni.argument_checks import check_seed, check_within
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.shard_checks import check_prepared_shards
from lightning_omni.data.storage.locations import Location, parse_location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.codec_reconstruction import CodecReconstructor
from lightning_omni.evaluation.predictions import Recognizer, needs_recognizer
from lightning_omni.evaluation.provenance import manifest_hash, provenance
from lightning_omni.evaluation.responses import OmniAdapter
from lightning_omni.evaluation.suite import RESULTS, TABLE, Plan, Suite, load_suite
from lightning_omni.files import make_folder
from lightning_omni.generation.config import GenerationConfig, config_to_dict
from lightning_omni.generation.model_folder import file_tokenizer_folders
from lightning_omni.generation.omni import Omni
from lightning_omni.metrics.recognizer import Recognizer as WhisperRecognizer
from lightning_omni.pretrained import fingerprint, resolve_pretrained
from lightning_omni.tasks import scoring_of_task
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.types import SPLITS
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)


def evaluate(
    *,
    model: Path,
    data: str,
    out: Path,
    tasks: list[str],
    splits: list[str],
    limit: int,
    speech_limit: int,
    seed: int,
    batch_size: int = 16,
    gallery: int = 8,
    sampling: GenerationConfig | None = None,
    continuous_speech: SpeechFeatureEncoder | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Evaluate an exported model and write `results.json`, `results.md` and a gallery.

    Args:
        model: Folder of an exported model.
        data: Folder or URL written by prep-data; media of a folder are encoded first where that was
            not done, those at a URL have to be.
        out: Folder for the results.
        tasks: Tasks to evaluate.
        splits: Test splits; those that a task does not have are reported as missing.
        limit: Number of examples per task and split, drawn by the seed.
        speech_limit: Number of examples per task and split for tasks that need the speech
            recognizer, which is slow.
        seed: Seed of the draw of examples, of generation and of bootstrap intervals.
        batch_size: Number of examples answered in one batch.
        gallery: Number of examples per task that are saved as files.
        sampling: Generation options; None for the defaults.
        continuous_speech: Speech feature encoder; required if the model was trained with
            continuous speech input. Use the encoder of the training recipe.
        device: Device: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If a folder, a task, a split or the device does not exist.
    """
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    folder = parse_location(data)
    arguments["data"] = str(folder)  # without credentials
    sampling = sampling or GenerationConfig()
    arguments["sampling"] = config_to_dict(sampling)
    arguments["continuous_speech"] = continuous_speech and continuous_speech.fingerprint()
    check_tasks(tasks, splits, limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_within("gallery", gallery, 0)
    check_seed(seed, runs=max(limit, speech_limit))
    used = resolve_device(device)
    make_folder(out)
    model = resolve_pretrained(str(model))
    omni, suite = load_model_and_suite(model, folder, tasks, continuous_speech, device=used)
    plan = Plan(tasks, splits, limit, speech_limit, seed, batch_size, gallery)
    with torch.inference_mode():
        measured = suite.evaluate_model(OmniAdapter(omni, sampling), plan, out)
    results = {
        "model": str(model),
        "fingerprint": fingerprint(model),
        "manifest_sha256": manifest_hash(folder),
        "codes": suite.codes.name,
        "arguments": arguments,
        **provenance(used),
        **omni.describe_computation(),
        **measured,
    }
    write_text(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    log.info("wrote %s", out / TABLE)
    return results


def load_model_and_suite(
    model: Path,
    data: Location,
    tasks: Sequence[str],
    continuous_speech: SpeechFeatureEncoder | None = None,
    *,
    device: torch.device,
) -> tuple[Omni, Suite]:
    """Load a model and what scores its responses.

    Args:
        model: Folder of an exported model.
        data: Folder or URL written by prep-data; media of a folder are encoded first where that was
            not done, those at a URL have to be.
        tasks: Names of the tasks.
        continuous_speech: Speech feature encoder of a model with continuous speech input.
        device: Device of the model and of its tokenizers.
    """
    check_prepared_shards(data)
    omni = Omni.from_pretrained(model, continuous_speech=continuous_speech, device=str(device))
    settings = EncodingSettings(
        data,
        model / "image_tokenizer",
        model / "speech_tokenizer",
        continuous_speech,
        file_tokenizer_folders(model, omni.template.vocab),
        omni.request_image_size,
    )
    codes = ensure_codes(settings, device)
    suite = load_suite(
        data,
        codes,
        recognizer=load_recognizer_if_needed(tasks),
        reconstructor=CodecReconstructor(omni.decoder),
        tasks=tasks,
    )
    return omni, suite


def check_tasks(tasks: Sequence[str], splits: Sequence[str], *, limit: int) -> None:
    """Check the selection of an evaluation.

    Raises:
        OmniError: If a task or a split is unknown or repeated, or there is nothing to evaluate.
    """
    if not (tasks and splits):
        raise OmniError("nothing to evaluate: name at least one task and one split")
    for task in tasks:
        scoring_of_task(task)
    check_splits(splits)
    repeated = {name for name in (*tasks, *splits) if [*tasks, *splits].count(name) > 1}
    if repeated:
        raise OmniError(f"{', '.join(sorted(repeated))} named twice; name each task and split once")
    if limit < 1:
        raise OmniError(f"limit is {limit}, wanted at least 1 example per task and split")


def check_splits(splits: Sequence[str]) -> None:
    """Check names of splits.

    Raises:
        OmniError: If one is unknown.
    """
    for split in splits:
        if split not in SPLITS:
            raise OmniError(f"unknown split '{split}'; choose from {', '.join(SPLITS)}")


def load_recognizer_if_needed(tasks: Sequence[str]) -> Recognizer | None:
    """Load the recognizer if the scores of any task need one.

    Raises:
        OmniError: If it is not installed.
    """
    if not any(needs_recognizer(task) for task in tasks):
        return None
    import jiwer  # noqa: F401  errors of transcripts are counted last; its lack is told first

    return WhisperRecognizer()
