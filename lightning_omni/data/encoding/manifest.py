"""The last file of a folder of codes: what it holds, with the digest of each shard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load, load_file, save_file
from torch import Tensor

from lightning_omni.data.encoding.plan import TASKS, WORK, Plan, whole_file
from lightning_omni.data.encoding.records import Record, Records, sha256_of
from lightning_omni.data.encoding.settings import EncodingSettings, LoadedTokenizers
from lightning_omni.data.shards import MANIFEST
from lightning_omni.data.storage.locations import Location, Url
from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASK_NAMES

FEATURES_FILE = "features.safetensors"


def write_manifest(
    settings: EncodingSettings, tokenizers: LoadedTokenizers, plan: Plan, records: Records
) -> None:
    """Check all task shards of a folder, write its manifest and remove what led to it.

    Raises:
        OmniError: If a shard is missing or has other contents than when it was written.
    """
    folder = settings.folder
    shards = _check_shards(folder, plan, records)
    features = {name: one.code_features for name, one in tokenizers.by_modality.items()}
    with whole_file(folder / FEATURES_FILE, folder) as partial:
        save_file({k: v.detach().float().cpu().contiguous() for k, v in features.items()}, partial)
    with whole_file(folder / MANIFEST, folder) as partial:
        text = json.dumps(_manifest(tokenizers, plan, shards), indent=2)
        partial.write_text(text + "\n")
    remove_work(folder)


def remove_work(folder: Path) -> None:
    """Remove what led to a complete folder; several processes may do so at once."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def load_features(folder: Location) -> dict[str, Tensor]:
    """Return the code features of each modality, Float[num_codes, F], as its tokenizer has them."""
    if isinstance(folder, Url):
        return load((folder / FEATURES_FILE).read_bytes())
    return load_file(folder / FEATURES_FILE)


def _check_shards(folder: Path, plan: Plan, records: Records) -> dict[str, Record]:
    """Return the records of the task shards by name."""
    found = {}
    for step in plan.steps(TASKS):
        record, path = records.find(step), folder / step.output
        if record is None:
            raise OmniError(f"'{folder}' lacks the shard '{step.output}'; encode again")
        if sha256_of(path) != record.sha256:
            records.forget(step)
            raise OmniError(
                f"'{path}' has other contents than when it was written; start the command again, "
                "which writes it anew, and check the disk"
            )
        found[step.output] = record
    return found


def _manifest(
    tokenizers: LoadedTokenizers, plan: Plan, shards: dict[str, Record]
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
        "sha256": {name: record.sha256 for name, record in shards.items()},
    }
    if tokenizers.has_two_sizes:
        manifest["request_image_columns"] = image.columns_of(tokenizers.request_size)
    return manifest
