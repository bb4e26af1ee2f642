"""Collects the tokens of a sample while a template renders it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Sample, TokenSequence


@dataclass(slots=True)
class SequenceBuilder:
    """Collects the runs of tokens of a sample while it is rendered.

    Attributes:
        length: Number of tokens so far.
        runs: Ids of the runs before `latest`.
        latest: Ids since the last array.
        grids: First position and cells of each run on a grid.
        answers: First position, one past the last, modality and number of tail pads of each run to
            be predicted.
        features: See `TokenSequence`.
    """

    length: int = 0
    runs: list[NDArray[np.int64]] = field(default_factory=list)
    latest: list[int] = field(default_factory=list)
    grids: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    answers: list[tuple[int, int, int, int]] = field(default_factory=list)
    features: list[tuple[int, NDArray[np.floating[Any]]]] = field(default_factory=list)

    def append_ids(
        self,
        ids: Sequence[int] | NDArray[np.int64],
        *,
        grid: NDArray[np.int64] | None = None,
        answer_of: int = -1,
        tail_pads: int = 0,
    ) -> None:
        """Append tokens.

        Args:
            ids: Their ids, an array where they are many.
            grid: (row, column) of each, Int[len(ids) 2]; None for tokens that lie on no grid.
            answer_of: Index of the modality if the tokens are to be predicted, else -1.
            tail_pads: Number of trailing tokens that are tail pads.
        """
        start, self.length = self.length, self.length + len(ids)
        if isinstance(ids, np.ndarray):
            self._end_latest_run()
            self.runs.append(ids)
        else:
            self.latest.extend(ids)
        if grid is not None:
            self.grids.append((start, grid))
        if answer_of >= 0:
            self.answers.append((start, self.length, answer_of, tail_pads))

    def build(self, sample: Sample) -> TokenSequence:
        """Return the sequence of the collected tokens."""
        self._end_latest_run()
        position_ids = np.zeros((self.length, 3), dtype=np.int64)
        position_ids[:, 0] = np.arange(self.length)
        for start, grid in self.grids:
            position_ids[start : start + len(grid), 1:] = grid
        modality = np.full(self.length, -1)
        is_tail_pad = np.zeros(self.length, dtype=np.bool_)
        for start, stop, answer_of, tail_pads in self.answers:
            modality[start:stop] = answer_of
            is_tail_pad[stop - tail_pads : stop] = True
        return TokenSequence(
            np.concatenate(self.runs),
            position_ids,
            modality >= 0,
            is_tail_pad,
            modality,
            TASK_NAMES.index(sample.task),
            sample.key,
            tuple(self.features),
        )

    def _end_latest_run(self) -> None:
        if self.latest:
            self.runs.append(np.array(self.latest, dtype=np.int64))
            self.latest.clear()
