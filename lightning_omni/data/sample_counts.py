"""Samples that training has used, counted where they are used and compared with what was drawn.

Each lane's position says how many samples it has drawn, and which of them wait for room. Without a
loss on the way, from a reader through packing, workers, processes and checkpoints, the batches that
were used hold exactly the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lightning_omni.data.epoch_order import EpochOrder
from lightning_omni.data.lane_reader import Cursor
from lightning_omni.data.lanes import Position
from lightning_omni.data.mixture import Mixture
from lightning_omni.errors import OmniError

Counts = Mapping[str, int]
"""Number of samples by kind: a task, or pictures."""


class DrawCounter:
    """Counts the samples that lanes have drawn from the shards of one kind.

    Args:
        order: Order of the samples.
        lanes: Number of lanes.
    """

    def __init__(self, order: EpochOrder, lanes: int) -> None:
        self.order, self.lanes = order, lanes
        self._before: dict[int, tuple[int, int]] = {}

    def count_drawn(self, lane: int, cursor: Cursor) -> int:
        """Return how many samples a lane has drawn when it is at a cursor."""
        turn, offset = cursor
        known, total = self._before.get(lane, (0, 0))
        if turn < known:
            known, total = 0, 0
        for passed in range(known, turn):
            total += self.order.pool_size(passed * self.lanes + lane)
        self._before[lane] = (turn, total)
        return total + offset


class TaskCounter:
    """Counts the samples of each task in positions of a mixture's lanes.

    Args:
        mixture: Contents of the stream.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.copies = 1 + mixture.complementary
        readers = mixture.make_readers()
        self.draws = {t: DrawCounter(reader.order, mixture.lanes) for t, reader in readers.items()}

    def count_up_to(self, lane: int, position: Position) -> Counts:
        """Return the samples in a lane's batches up to a position: those that do not wait."""
        cursors = position["cursors"]
        drawn = Counter(
            {t: self.copies * d.count_drawn(lane, cursors[t]) for t, d in self.draws.items()}
        )
        drawn.subtract(Counter(task for _, task, *_ in position["waiting"]))
        return {task: count for task, count in drawn.items() if count}

    def count_per_epoch(self) -> Counts:
        """Return how often the samples of each task are used in one pass over all of them."""
        return {task: self.copies * d.order.num_samples for task, d in self.draws.items()}


class UsedSamples:
    """The samples that training has used, of the lanes that were read.

    Attributes:
        by_lane: Number of samples by lane and kind.
    """

    def __init__(self) -> None:
        self.by_lane: dict[int, Counter[str]] = {}

    def add_batch(self, lane: int, held: Counts, *, behind: Counts) -> None:
        """Count a batch, and compare what its lane has used with its position.

        Args:
            lane: Lane of the batch.
            held: Samples in the batch.
            behind: Samples that the lane's batches up to this one hold, as its position says.

        Raises:
            OmniError: If they differ.
        """
        used = self.by_lane.setdefault(lane, Counter())
        used.update(held)
        check_counts(lane, used, behind)


def check_counts(lane: int, used: Counts, drawn: Counts) -> None:
    """Compare what a lane's batches held with its position.

    Raises:
        OmniError: If they differ.
    """
    for kind in sorted(used.keys() | drawn.keys()):
        found, wanted = used.get(kind, 0), drawn.get(kind, 0)
        if found != wanted:
            raise OmniError(
                f"{found} samples of '{kind}' were used in lane {lane} where {wanted} were drawn: "
                "samples were lost or repeated on the way; go on from the last checkpoint "
                "(--ckpt_path last), and report it if it comes again"
            )


def describe_epochs(used: Counts, sizes: Counts, *, known: dict[str, int]) -> str | None:
    """Return a sentence on the kinds whose epochs became 1, 2, 4, 8 and so on; None without any.

    Args:
        used: Number of samples by kind that were used in all.
        sizes: Number of samples by kind that the manifest lists, times how often each is shown.
        known: Number of epochs by kind that were described before; is brought up to date.
    """
    described = []
    for kind, size in sizes.items():
        epochs = used.get(kind, 0) // size if size else 0
        if epochs.bit_length() > known.get(kind, 0).bit_length():
            described.append(f"{kind} {epochs} ({used[kind]:,} samples)")
        known[kind] = max(epochs, known.get(kind, 0))
    return f"epochs that are over: {', '.join(described)}" if described else None
