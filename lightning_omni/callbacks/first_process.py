"""Work of the first process alone, while the others wait for it as long as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from lightning_omni.errors import OmniError

PATIENCE = timedelta(days=30)
T = TypeVar("T")


def make_host_group() -> Any:
    """Return a group of all processes over gloo, for which no device is asked; None for one alone.

    Every process has to call it. It waits as long as it takes.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.new_group(backend="gloo", timeout=PATIENCE)
    return None


class FirstProcess:
    """Lets all processes go on together after work that one of them does.

    Training's own process group gives up after minutes if one process is late, so the wait has a
    group of its own, over gloo: no device is asked.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def make_process_group(self) -> None:
        """Make the group; every process has to call it, once, before there is work."""
        self._group = make_host_group()

    @contextmanager
    def others_wait(self) -> Iterator[None]:
        """Do the first process's work inside; all processes have to enter, and leave together.

        If the work fails and its process ends, so does the wait.
        """
        yield
        if self._group is not None:
            dist.barrier(group=self._group)


def on_first_process(work: Callable[[], T], group: Any) -> T:
    """Return on all processes what the first one finds.

    Args:
        work: What the first process does.
        group: Group of `make_host_group`.

    Raises:
        OmniError: On all processes, if the first one raises it, or cannot use a file.
    """
    result: list[Any] = [None, None]
    if group is None or dist.get_rank() == 0:
        try:
            result[0] = work()
        except OmniError as error:
            result[1] = str(error)
        except OSError as error:
            result[1] = f"cannot use '{error.filename}' ({error.strerror or error})"
    if group is not None:
        dist.broadcast_object_list(result, group=group)
    if result[1] is not None:
        raise OmniError(result[1])
    found: T = result[0]
    return found
