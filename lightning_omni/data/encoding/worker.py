"""One process's part of an encoding: its own shards first, then what others have not begun."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Sequence

import torch

from lightning_omni.data.encoding.manifest import remove_work, write_manifest
from lightning_omni.data.encoding.media_codes import streams_of
from lightning_omni.data.encoding.plan import (
    MEDIA,
    WORK,
    Plan,
    Step,
    input_sizes,
    settle_plan,
)
from lightning_omni.data.encoding.progress import Progress
from lightning_omni.data.encoding.settings import EncodingSettings, LoadedTokenizers
from lightning_omni.data.encoding.sharing import Claims
from lightning_omni.data.encoding.steps import StepRunner
from lightning_omni.data.shards import MANIFEST
from lightning_omni.errors import OmniError

POLL_S = 0.2
_MANIFEST_S = 90  # until a network file system shows the manifest that another host wrote


def make_plan(settings: EncodingSettings, tokenizers: LoadedTokenizers) -> Plan:
    """Return the plan of a folder on a kind of device."""
    has_roles = tokenizers.has_two_sizes or tokenizers.continuous_speech is not None
    return Plan(
        settings.hashes,
        tokenizers.computation(),
        streams_of(tokenizers),
        has_roles,
        input_sizes(settings.local_data),
    )


class Worker:
    """Does steps of a folder's plan together with other processes.

    Args:
        settings: What encodes the folder.
        device: Device of the tokenizers.
        part: Number of this process among `parts`.
        parts: Processes that begin with shards of their own: `part`, `part + parts`, ....
        is_shown: Whether to show progress.

    Raises:
        OmniError: If something is missing, or the folder was begun by another plan.
    """

    def __init__(
        self,
        settings: EncodingSettings,
        device: torch.device,
        *,
        part: int = 0,
        parts: int = 1,
        is_shown: bool = True,
    ) -> None:
        self.settings, self.folder = settings, settings.folder
        self.part, self.parts = part, parts
        self.tokenizers = LoadedTokenizers(settings, device)
        self.plan = make_plan(settings, self.tokenizers)
        self.runner = StepRunner(settings, self.tokenizers, self.plan)
        self.progress = Progress(self.runner.records, is_shown=is_shown)
        self.runner.report = self.progress.add
        self.claims = Claims(self.folder / WORK / "claims")

    def settle(self) -> None:
        """Agree with other processes on the plan.

        Raises:
            OtherPlanError: If the folder was begun by another plan.
        """
        with self.claims.holding("plan", poll_s=POLL_S):
            if not self.is_complete():
                settle_plan(self.plan, self.folder)

    def work(self, *, own_media_only: bool = False) -> bool:
        """Do steps until the folder is complete; return whether it is.

        Args:
            own_media_only: Leave media shards of other parts alone, and return if they are missing.

        Raises:
            OmniError: If a medium or a shard is damaged or missing.
        """
        return self._unless_complete(lambda: self._work(own_media_only=own_media_only))

    def run_step(self, step: Step) -> str:
        """Do one step, or wait while another process does it; return its output's digest."""
        self._do([step])
        record = self.runner.records.find(step)
        return record.sha256 if record else ""  # none once another process has finished the folder

    def finish(self) -> None:
        """Write the manifest of a complete folder, after its shards are checked."""

        def finish() -> bool:
            with self.claims.holding("manifest", poll_s=POLL_S):
                if not self.is_complete():
                    write_manifest(self.settings, self.tokenizers, self.plan, self.runner.records)
            return True

        self._unless_complete(finish)

    def is_complete(self) -> bool:
        """Whether the folder has its manifest, which is written last."""
        return (self.folder / MANIFEST).is_file()

    def close(self) -> None:
        """Give all claims back, and remove what a complete folder no longer needs."""
        self.runner.close()
        self.claims.close()
        if self.is_complete():  # also if this process came when another had just finished
            remove_work(self.folder)

    def _unless_complete(self, work: Callable[[], bool]) -> bool:
        """Return what work does; if another process finishes meanwhile, True."""
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            is_gone = getattr(error, "errno", None) in (errno.ENOENT, errno.ESTALE)
            waits = is_gone and not (self.folder / WORK).is_dir()
            for _ in range(_MANIFEST_S if waits else 1):
                if self.is_complete():  # another process took away what is no longer needed
                    return True
                if waits:
                    time.sleep(1)
            raise

    def _work(self, *, own_media_only: bool) -> bool:
        self.settle()
        for phase in self.plan.phases():
            own = phase[self.part :: self.parts]
            if own_media_only and phase and phase[0].kind == MEDIA:
                self._do(own)
                if any(self.runner.records.find(step) is None for step in phase):
                    return False
                continue
            taken = {step.name for step in own}
            self._do([*own, *(step for step in phase if step.name not in taken)])
        self.finish()
        return True

    def _do(self, steps: Sequence[Step]) -> None:
        """Do steps in this order, except those that others are doing, and wait for these."""
        self.progress.begin(steps)
        remaining = list(steps)
        while remaining and not self.is_complete():
            if not self._do_free(remaining):
                time.sleep(POLL_S)
                self.progress.show()
            remaining = [s for s in remaining if self.runner.records.find(s) is None]
        self.progress.end()

    def _do_free(self, steps: Sequence[Step]) -> bool:
        """Do those steps that nobody does or has done; return whether there were any."""
        has_done = False
        for step in steps:
            if self.runner.records.find(step) is not None or not self.claims.take(step.name):
                continue
            try:
                if self.runner.records.find(step) is None:
                    self.runner.run(step)
                has_done = True
            finally:
                self.claims.release(step.name)
        return has_done


def check_parts(part: int, parts: int) -> None:
    """Refuse numbers that name no part.

    Raises:
        OmniError: If so.
    """
    if parts < 1 or not 0 <= part < parts:
        raise OmniError(
            f"part is {part} of {parts}, wanted a part from 0 to parts - 1; number the elements of "
            "the array from 0"
        )
