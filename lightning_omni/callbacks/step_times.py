"""Measure the parts of a training step without waiting for the device."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

PARTS = ("forward", "backward", "update")


class StepTimer:
    """Sums of the times of forward pass, backward pass, and update (clipping and optimizer).

    On a CPU a mark is the time on the host. On a GPU, which runs behind the host, it is an event in
    the stream, and a step is counted once the GPU has passed it: usually one step late.

    Args:
        device: device of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self._marks: list[Any] = []
        self._unread: deque[list[Any]] = deque()
        self.reset_sums()

    def reset_sums(self) -> None:
        """Forget the sums; steps that the GPU has not passed yet count towards the next ones."""
        self.seconds, self.steps = [0.0] * len(PARTS), 0

    def start_step(self, now: float) -> None:
        """Mark the start of a step; `now` is the time on the host in seconds."""
        self._marks = []
        self.mark_end_of_part(now)

    def mark_end_of_part(self, now: float) -> None:
        """Mark the end of a part."""
        if not self.is_cuda:
            self._marks.append(now)
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def end_step(self, now: float) -> None:
        """Mark the end of a step, and count the steps that are over."""
        self.mark_end_of_part(now)
        if len(self._marks) == len(PARTS) + 1:
            self._unread.append(self._marks)
        while self._unread and (not self.is_cuda or self._unread[0][-1].query()):
            marks = self._unread.popleft()
            for part in range(len(PARTS)):
                self.seconds[part] += self._seconds_between(marks[part], marks[part + 1])
            self.steps += 1

    def mean_times(self) -> dict[str, float]:
        """Return the mean of each part in seconds as `perf/<part>_s`; nothing without a step."""
        if not self.steps:
            return {}
        return {f"perf/{n}_s": s / self.steps for n, s in zip(PARTS, self.seconds, strict=True)}

    def _seconds_between(self, first: Any, second: Any) -> float:
        if self.is_cuda:
            return float(first.elapsed_time(second)) / 1e3
        return float(second - first)
