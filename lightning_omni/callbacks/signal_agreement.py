"""Agreement of all processes on a signal that any of them got, without waiting in a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from lightning_omni.callbacks.first_process import make_host_group


class SignalAgreement:
    """Largest exit code of all processes, as an all-reduce over gloo: no device is asked."""

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: Any = None
        self._sent = torch.zeros(1, dtype=torch.int32)

    def make_process_group(self) -> None:
        """Make the group; every process has to call it, once."""
        self._group = make_host_group()

    def exchange(self, own: int) -> int:
        """Send this process's code, and return what all have agreed on in the call before.

        So the exchange runs beside a step. One process alone agrees at once.
        """
        if self._group is None:
            return own
        agreed = self.finish_exchange()
        self._sent = torch.tensor([own], dtype=torch.int32)
        self._pending = dist.all_reduce(
            self._sent, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed

    def exchange_now(self, own: int) -> int:
        """Return what all agree on in this call; each waits for the others."""
        before = self.exchange(own)
        return max(before, self.finish_exchange()) if self._group is not None else before

    def finish_exchange(self) -> int:
        """Wait for an exchange that was begun; return what it agreed on, 0 if there is none."""
        if self._pending is None:
            return 0
        self._pending.wait()
        self._pending = None
        return int(self._sent)
