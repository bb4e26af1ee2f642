"""One lane of the joint model's training stream: tasks mixed, samples rendered and packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.lanes import Position
from lightning_omni.data.packing import Indexed, Packer
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards, parse_sample
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.template import Template
from lightning_omni.data.transcripts import with_transcript
from lightning_omni.diffusion.noise import complementary_index, spread_stride
from lightning_omni.errors import OmniError, fold_text
from lightning_omni.types import Batch, Sample

_RENDER_ERRORS = (OmniError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What samples that do not fit a recipe may raise where they are rendered."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The contents of a stream of training samples.

    Attributes:
        folder: Folder of encoded task shards.
        tasks: Share of each task; need not sum to one.
        seed: Seed of order, answer parts, pads and dropout.
        lanes: Number of lanes of the stream.
        transcribe_first: Tasks whose answer begins with the transcript of the request.
        condition_dropout: Probability that a sample is seen without its condition.
        complementary: Whether each sample is shown twice, with complementary masks.
    """

    folder: Location
    tasks: dict[str, float]
    seed: int
    lanes: int
    transcribe_first: frozenset[str] = frozenset()
    condition_dropout: float = 0.0
    complementary: bool = False

    def make_readers(self) -> dict[str, ShardReader]:
        """Return a reader of each task's training shards.

        Raises:
            OmniError: If a task has none.
        """
        return {
            task: ShardReader(
                list_shards(self.folder, task, "train"),
                lanes=self.lanes,
                seed=f"{self.seed}-{task}",
            )
            for task in self.tasks
        }


class DrawnSample(NamedTuple):
    """One sample of a lane: its number, its task, and its cursor among the task's samples."""

    number: int
    task: str
    turn: int
    offset: int


class MixtureLane:
    """The rendered samples of a lane, without end.

    Draw n of lane l is of the (l + n)-th task of the mixture's order, so that the lanes together
    keep to the shares as each of them does.

    Args:
        mixture: Contents of the stream.
        template: Renders the samples.
        readers: Readers of the tasks' shards, shared by the lanes of a process.
        lane: Number of the lane.
        position: Where the lane goes on; None for its start.
    """

    def __init__(
        self,
        mixture: Mixture,
        template: Template,
        readers: dict[str, ShardReader],
        lane: int,
        position: Position | None = None,
    ) -> None:
        self.mixture, self.template, self.lane = mixture, template, lane
        self.stride = spread_stride(mixture.lanes)
        state = position or {
            "draws": 0,
            "served": _count_served(mixture.tasks, lane),
            "cursors": {},
        }
        self.draws, self.served = int(state["draws"]), dict(state["served"])
        self.lanes = {
            task: LaneReader(reader, lane, tuple(state["cursors"].get(task, (0, 0))))
            for task, reader in readers.items()
        }

    def position(self) -> Position:
        """Return where the lane goes on."""
        cursors = {task: list(lane.cursor) for task, lane in self.lanes.items()}
        return {"draws": self.draws, "served": dict(self.served), "cursors": cursors}

    def draw_sample(self) -> DrawnSample:
        """Draw the next sample, which `render` reads."""
        task = choose_next_task(self.mixture.tasks, self.served)
        drawn = DrawnSample(self.draws, task, *self.lanes[task].cursor)
        self.draws += 1
        self.lanes[task].skip_sample()
        return drawn

    def render(self, drawn: DrawnSample) -> list[Indexed]:
        """Read and render a drawn sample; with complementary masks, it comes twice.

        Raises:
            OmniError: If the sample is damaged or does not fit the recipe; names it and its shard.
        """
        key, files, path = self.lanes[drawn.task].read_at((drawn.turn, drawn.offset))
        sample = parse_sample(key, files, path)
        rng = Random(f"{self.mixture.seed}-{self.lane}-{drawn.number}")
        try:
            return self._render_sample(sample, drawn, rng)
        except _RENDER_ERRORS as error:
            raise OmniError(f"sample '{key}' of '{path}': {fold_text(str(error))}") from error

    def _render_sample(self, sample: Sample, drawn: DrawnSample, rng: Random) -> list[Indexed]:
        if drawn.task in self.mixture.transcribe_first:
            sample = with_transcript(sample)
        is_dropped = rng.random() < self.mixture.condition_dropout
        drop = _request_modalities(sample) if is_dropped else ()
        sequence = self.template.render(sample, rng=rng, drop=drop)
        index = drawn.number * self.stride + self.lane
        if self.mixture.complementary:
            return [(index, sequence), (complementary_index(index), sequence)]
        return [(index, sequence)]


class PackedLanes:
    """Opens lanes of packed batches.

    Args:
        mixture: Contents of the stream.
        template: Renders the samples.
        rows: Rows of a batch, B.
        row_length: Tokens of a row, L.
    """

    def __init__(self, mixture: Mixture, template: Template, *, rows: int, row_length: int) -> None:
        self.mixture, self.template = mixture, template
        self.rows, self.row_length = rows, row_length
        self._readers: dict[str, ShardReader] | None = None

    def __call__(self, lane: int, position: Position | None) -> Iterator[tuple[Batch, Position]]:
        """Yield a lane's batches without end, each with the position behind it.

        A position holds the draws that wait for room; they are read and rendered again.
        """
        if self._readers is None:
            self._readers = self.mixture.make_readers()
        source = MixtureLane(self.mixture, self.template, self._readers, lane, position)
        packer = Packer[tuple[DrawnSample, int]](
            rows=self.rows,
            row_length=self.row_length,
            pad_token_id=self.template.vocab.pad_token_id,
            codebooks=self.template.codebooks,
        )
        waiting = [(DrawnSample(*d), copy) for *d, copy in (position or {}).get("waiting", ())]
        packer.restore_waiting([(source.render(d)[copy], (d, copy)) for d, copy in waiting])
        while True:
            while packer.is_batch_ready:
                batch = packer.emit_batch()
                left = [[*d, copy] for d, copy in packer.pending]
                yield batch, {**source.position(), "waiting": left}
            drawn = source.draw_sample()
            for copy, item in enumerate(source.render(drawn)):
                packer.add_sequence(item, (drawn, copy))


def choose_next_task(weights: dict[str, float], served: dict[str, int]) -> str:
    """Return the task that is most behind its share, and count it as served.

    After n draws each task was served within one of n times its share.
    """
    total = sum(weights.values())
    n = 1 + sum(served.values())
    task = max(weights, key=lambda name: n * weights[name] / total - served[name])
    served[task] += 1
    return task


def _count_served(weights: dict[str, float], draws: int) -> dict[str, int]:
    """Return how often each task is served in the first draws."""
    served = dict.fromkeys(weights, 0)
    for _ in range(draws):
        choose_next_task(weights, served)
    return served


def _request_modalities(sample: Sample) -> tuple[str, ...]:
    """Return the modalities of a sample's request."""
    return tuple({p.modality: None for t in sample.turns if t.role == "user" for p in t.parts})
