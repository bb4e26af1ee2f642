"""Steps of a job."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.errors import OmniError


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work: one shard, or a table over all shards.

    Attributes:
        kind: What is done.
        name: Name of the claim and the record, unique in the job.
        output: File that it writes, relative to the folder of outputs.
        source: What it reads, as the job names it; empty for a table.
        stream: For media, what is encoded: a modality, `request_image` or `speech_features`.
        size: Amount of work, as a number of bytes or entries.
    """

    kind: str
    name: str
    output: str
    source: str = ""
    stream: str = ""
    size: int = 0


class PlanMismatchError(OmniError):
    """A folder was begun by another plan."""
