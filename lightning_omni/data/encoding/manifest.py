"""The last file of a folder of codes: what it holds, with the digest of each shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_omni.data.encoding.code_features import (
    FEATURES_FILE,
    FEATURES_SHA256,
    save_code_features,
)
from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.plan import TASKS, Plan
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import WORK, remove_work_folder
from lightning_omni.data.manifest import MANIFEST, add_checksum
from lightning_omni.errors import OmniError
from lightning_omni.files import file_sha256
from lightning_omni.jobs.step_records import StepRecord, StepRecords
from lightning_omni.jobs.work_folder import write_when_complete
from lightning_omni.tasks import TASK_NAMES


def write_manifest(
    settings: EncodingSettings, tokenizers: LoadedTokenizers, plan: Plan, records: StepRecords
) -> None:
    """Check all task shards of a folder, write its manifest and remove what led to it.

    Raises:
        OmniError: If a shard is missing or has other contents than when it was written.
    """
    folder = settings.local_codes_folder
    shards = _verify_task_shards(folder, plan, records)
    features = {name: one.code_features for name, one in tokenizers.by_modality.items()}
    save_code_features(folder, features)
    with write_when_complete(folder / MANIFEST, folder / WORK) as partial:
        facts = _make_manifest(tokenizers, plan, shards, file_sha256(folder / FEATURES_FILE))
        text = json.dumps(add_checksum(facts), indent=2)
        partial.write_text(text + "\n", encoding="utf-8")
    remove_work_folder(folder)


def _verify_task_shards(folder: Path, plan: Plan, records: StepRecords) -> dict[str, StepRecord]:
    """Return the records of the task shards by name."""
    found = {}
    for step in plan.steps_of_kind(TASKS):
        record, path = records.find(step), folder / step.output
        if record is None:
            raise OmniError(f"'{folder}' lacks the shard '{step.output}'; encode again")
        if file_sha256(path) != record.sha256:
            records.forget(step)
            raise OmniError(
                f"'{path}' has other contents than when it was written; start the command again, "
                "which writes it anew, and check the disk"
            )
        found[step.output] = record
    return found


def _make_manifest(
    tokenizers: LoadedTokenizers,
    plan: Plan,
    shards: dict[str, StepRecord],
    features_sha256: str,
) -> dict[str, Any]:
    image, speech = tokenizers.image, tokenizers.speech
    manifest = {
        "hashes": plan.hashes,
        "spans": {name: one.num_codes for name, one in tokenizers.by_modality.items()},
        "image_columns": image.columns,
        "codebooks": speech.num_codebooks,
        "tokens_per_second": speech.frame_rate * speech.num_codebooks,
        "samples": {name: record.count for name, record in shards.items() if record.count},
        "tasks": TASK_NAMES,
        **plan.computation,
        "bytes": {name: record.size for name, record in shards.items()},
        "sha256": {name: record.sha256 for name, record in shards.items()},
        FEATURES_SHA256: features_sha256,
    }
    if tokenizers.has_two_image_sizes:
        manifest["request_image_columns"] = image.columns_for_size(tokenizers.request_size)
    return manifest
