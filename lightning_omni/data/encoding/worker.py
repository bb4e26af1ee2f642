"""One process's part of an encoding: its own shards first, then what others have not begun."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Sequence

import torch

from lightning_omni.data.encoding.claims import Claims
from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.manifest import write_manifest
from lightning_omni.data.encoding.plan import (
    MEDIA,
    Step,
    make_plan,
    write_or_check_plan,
)
from lightning_omni.data.encoding.progress import Progress
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.step_runner import StepRunner
from lightning_omni.data.encoding.work_folder import WORK, remove_work_folder
from lightning_omni.data.shards import MANIFEST
from lightning_omni.errors import OmniError

POLL_S = 0.2
_MANIFEST_S = 90  # until a network file system shows the manifest that another host wrote


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
        self.settings, self.folder = settings, settings.local_codes_folder
        self.part, self.parts = part, parts
        self.tokenizers = LoadedTokenizers(settings, device)
        self.plan = make_plan(settings, self.tokenizers)
        self.runner = StepRunner(settings, self.tokenizers, self.plan)
        self.progress = Progress(self.runner.records, is_shown=is_shown)
        self.runner.report = self.progress.add_count
        self.claims = Claims(self.folder / WORK / "claims")

    def agree_on_plan(self) -> None:
        """Agree with other processes on the plan.

        Raises:
            PlanMismatchError: If the folder was begun by another plan.
        """
        with self.claims.hold("plan", poll_s=POLL_S):
            if not self.is_complete():
                write_or_check_plan(self.plan, self.folder)

    def encode_folder(self, *, own_media_only: bool = False) -> bool:
        """Do steps until the folder is complete; return whether it is.

        Args:
            own_media_only: Leave media shards of other parts alone, and return if they are missing.

        Raises:
            OmniError: If a medium or a shard is damaged or missing.
        """
        return self._run_unless_complete(lambda: self._run_phases(own_media_only=own_media_only))

    def run_step(self, step: Step) -> str:
        """Do one step, or wait while another process does it; return its output's digest."""
        self._run_steps([step])
        record = self.runner.records.find(step)
        return record.sha256 if record else ""  # none once another process has finished the folder

    def finish_folder(self) -> None:
        """Write the manifest of a complete folder, after its shards are checked."""

        def write_manifest_once() -> bool:
            with self.claims.hold("manifest", poll_s=POLL_S):
                if not self.is_complete():
                    write_manifest(self.settings, self.tokenizers, self.plan, self.runner.records)
            return True

        self._run_unless_complete(write_manifest_once)

    def is_complete(self) -> bool:
        """Whether the folder has its manifest, which is written last."""
        return (self.folder / MANIFEST).is_file()

    def close(self) -> None:
        """Give all claims back, and remove what a complete folder no longer needs."""
        self.runner.close()
        self.claims.close()
        if self.is_complete():  # also if this process came when another had just finished
            remove_work_folder(self.folder)

    def _run_unless_complete(self, work: Callable[[], bool]) -> bool:
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

    def _run_phases(self, *, own_media_only: bool) -> bool:
        self.agree_on_plan()
        for phase in self.plan.phases():
            own = phase[self.part :: self.parts]
            if own_media_only and phase and phase[0].kind == MEDIA:
                self._run_steps(own)
                if any(self.runner.records.find(step) is None for step in phase):
                    return False
                continue
            taken = {step.name for step in own}
            self._run_steps([*own, *(step for step in phase if step.name not in taken)])
        self.finish_folder()
        return True

    def _run_steps(self, steps: Sequence[Step]) -> None:
        """Do steps in this order, except those that others are doing, and wait for these."""
        self.progress.begin_phase(steps)
        remaining = list(steps)
        while remaining and not self.is_complete():
            if not self._run_unclaimed_steps(remaining):
                time.sleep(POLL_S)
                self.progress.show_if_due()
            remaining = [s for s in remaining if self.runner.records.find(s) is None]
        self.progress.end_phase()

    def _run_unclaimed_steps(self, steps: Sequence[Step]) -> bool:
        """Do those steps that nobody does or has done; return whether there were any."""
        has_done = False
        for step in steps:
            if self.runner.records.find(step) is not None or not self.claims.acquire(step.name):
                continue
            try:
                if self.runner.records.find(step) is None:
                    self.runner.run(step)
                has_done = True
            finally:
                self.claims.release(step.name)
        return has_done


def check_part_number(part: int, parts: int) -> None:
    """Refuse numbers that name no part.

    Raises:
        OmniError: If so.
    """
    if parts < 1 or not 0 <= part < parts:
        raise OmniError(
            f"part is {part} of {parts}, wanted a part from 0 to parts - 1; number the elements of "
            "the array from 0"
        )
