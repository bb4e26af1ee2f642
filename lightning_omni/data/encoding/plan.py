"""The plan of an encoding: its shards in a fixed order, of which every process computes the same.

It is written once into the unfinished folder, under a name that holds its hash, and never changed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.media_codes import media_streams
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import WORK
from lightning_omni.data.shard_checks import check_prepared_shards
from lightning_omni.jobs.steps import PlanMismatchError, Step
from lightning_omni.jobs.work_folder import write_when_complete

REFERENCES, REFERENCE_INDEX, MEDIA, MEDIA_INDEX, TASKS = (
    "references",
    "reference_index",
    "media",
    "media_index",
    "tasks",
)
_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What is done to encode a folder.

    Attributes:
        hashes: Hashes of the data and all that encodes it.
        computation: Kind of device and what the tokenizers compute with.
        streams: Modality of media by name of what is encoded of them.
        needs_references: Whether an encoding depends on a medium's role.
        inputs: Bytes of each shard that is read, by its path in the data folder, sorted.
    """

    hashes: dict[str, str]
    computation: dict[str, Any]
    streams: dict[str, str]
    needs_references: bool
    inputs: dict[str, int]
    format: int = field(default=_FORMAT)

    @property
    def digest(self) -> str:
        """Hash of the plan."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def phases(self) -> list[list[Step]]:
        """Return the steps in phases, each of which needs all the steps of those before."""
        tasks, media = self._inputs_below("tasks/"), self._inputs_below("media/")
        phases: list[list[Step]] = []
        if self.needs_references:
            rows = [_shard_step(REFERENCES, p, f"{WORK}/references/{p.stem}", s) for p, s in tasks]
            phases += [rows, [_table_step(REFERENCE_INDEX)]]
        codes = [
            _shard_step(MEDIA, path, f"{WORK}/media/{stream}/{path.stem}.codes", size, stream)
            for stream, modality in self.streams.items()
            for path, size in media
            if path.name.startswith(f"{modality}-")
        ]
        shards = [_shard_step(TASKS, path, path.name, size) for path, size in tasks]
        return [*phases, codes, [_table_step(MEDIA_INDEX)], shards]

    def steps_of_kind(self, kind: str) -> list[Step]:
        """Return the steps of a kind in order."""
        return [step for phase in self.phases() for step in phase if step.kind == kind]

    def _inputs_below(self, folder: str) -> list[tuple[Path, int]]:
        return [(Path(p), size) for p, size in self.inputs.items() if p.startswith(folder)]


def _shard_step(kind: str, source: Path, output: str, size: int, stream: str = "") -> Step:
    name = ".".join(word for word in (kind, stream, source.stem) if word)
    return Step(kind, name, output, str(source), stream, size)


def _table_step(kind: str) -> Step:
    return Step(kind, kind, f"{WORK}/{kind}.sqlite")


def make_plan(settings: EncodingSettings, tokenizers: LoadedTokenizers) -> Plan:
    """Return the plan of a folder on a kind of device."""
    has_roles = tokenizers.has_two_image_sizes or tokenizers.continuous_speech is not None
    return Plan(
        settings.hashes,
        tokenizers.describe_computation(),
        media_streams(tokenizers),
        has_roles,
        input_shard_sizes(settings.local_data),
    )


def input_shard_sizes(data: Path) -> dict[str, int]:
    """Return the bytes of each media and task shard by its path in a data folder, sorted.

    Raises:
        OmniError: If the shards are not those of the folder's manifest.
    """
    shards = [*(data / "media").glob("*.tar"), *(data / "tasks").glob("*.tar")]
    found = {str(path.relative_to(data)): path.stat().st_size for path in sorted(shards)}
    check_prepared_shards(data)
    return found


def write_or_check_plan(plan: Plan, folder: Path) -> None:
    """Write a plan into a folder that has none; the caller is alone there.

    Raises:
        PlanMismatchError: If the folder was begun by another plan.
    """
    path = folder / WORK / f"plan-{plan.digest}.json"
    others = [other for other in (folder / WORK).glob("plan-*.json") if other != path]
    if others:
        raise PlanMismatchError(_describe_mismatch(plan, others[0], folder))
    if not path.exists():
        with write_when_complete(path, folder / WORK) as partial:
            partial.write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")


def _describe_mismatch(plan: Plan, other: Path, folder: Path) -> str:
    """Return in which way the plan of a folder is another."""
    begun = json.loads(other.read_text("utf-8"))
    found, wanted = begun.get("computation", {}), plan.computation
    remedy = f"finish it there, or delete '{folder}' to begin again"
    if found.get("device") != wanted["device"]:
        return (
            f"'{folder}' was begun on the device '{found.get('device')}', and this process "
            f"computes on '{wanted['device']}'; a folder never mixes two: {remedy}"
        )
    if found != wanted:
        return (
            f"'{folder}' was begun with {found.get('computation')}, and this process computes with "
            f"{wanted['computation']}; a folder never mixes two: {remedy}"
        )
    before, now = begun.get("inputs", {}), plan.inputs
    changed = next((n for n in {**before, **now} if before.get(n) != now.get(n)), None)
    if changed is None:
        return f"'{folder}' was begun by another version; delete it to begin again"
    return (
        f"the encoding in '{folder}' was planned with {before.get(changed, 'no')} bytes in "
        f"'{changed}', which now has {now.get(changed, 'none')}: the data were changed; restore "
        f"them, or prepare the data again and delete '{folder}'"
    )
