"""What the command line was given: which of it is asked about, and which is the answer's draft."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.media import read_audio, read_image
from lightning_omni.errors import OmniError
from lightning_omni.generation.draft import Draft, Times, check_has_medium
from lightning_omni.generation.part_draft import GAP
from lightning_omni.tasks import Task

_RUN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*-\s*(\d+(?:\.\d*)?|\.\d+)\s*")


class Given(TypedDict):
    """Arguments of `Omni.generate`."""

    text: str | None
    image: Image.Image | None
    speech: NDArray[np.float32] | None
    mask: Image.Image | None
    times: Times | None
    draft: Draft | None


@dataclass(frozen=True, slots=True)
class GivenFiles:
    """Texts, times and names of files, as on the command line."""

    text: str | None = None
    image: str | None = None
    audio: str | None = None
    mask: str | None = None
    times: str | None = None
    draft_text: str | None = None
    draft_image: str | None = None
    draft_audio: str | None = None

    def sorted_for(self, task: Task) -> GivenFiles:
        """Move what the task does not ask for to the draft: text with gaps, masked media.

        Raises:
            OmniError: If there is a mask or times without a file for them, or the times are no runs
                of seconds.
        """
        out = self
        has_gap = self.text is not None and GAP.search(self.text) is not None
        if "text" not in task.asks and has_gap and self.draft_text is None:
            out = replace(out, text=None, draft_text=self.text)
        if "image" not in task.asks and self.mask is not None and self.draft_image is None:
            out = replace(out, image=None, draft_image=self.image)
        if "speech" not in task.asks and self.times is not None and self.draft_audio is None:
            out = replace(out, audio=None, draft_audio=self.audio)
        check_has_medium("--mask", out.mask, "picture", out.image or out.draft_image)
        check_has_medium("--times", out.times, "sound", out.audio or out.draft_audio)
        if out.times is not None:
            parse_times(out.times)
        return out

    def read(self, *, sample_rate: int) -> Given:
        """Read the files.

        Raises:
            OmniError: If one cannot be read.
        """
        mask = _picture(self.mask, ground="black")
        times = None if self.times is None else parse_times(self.times)
        draft = None
        own_image, own_speech = _picture(self.draft_image), _sound(self.draft_audio, sample_rate)
        if any(x is not None for x in (self.draft_text, own_image, own_speech)):
            draft = Draft(
                text=self.draft_text,
                image=own_image,
                mask=None if own_image is None else mask,
                speech=own_speech,
                times=None if own_speech is None else times,
            )
        return Given(
            text=self.text,
            image=_picture(self.image),
            speech=_sound(self.audio, sample_rate),
            mask=mask if own_image is None else None,
            times=times if own_speech is None else None,
            draft=draft,
        )


def _picture(name: str | None, *, ground: str = "white") -> Image.Image | None:
    return None if name is None else read_image(Path(name), ground=ground)


def _sound(name: str | None, sample_rate: int) -> NDArray[np.float32] | None:
    return None if name is None else read_audio(Path(name), sample_rate=sample_rate)


def parse_times(times: str) -> list[tuple[float, float]]:
    """Read `0.5-1.2,2-2.4` as runs of seconds.

    Raises:
        OmniError: If it does not read so.
    """
    runs = [_RUN.fullmatch(run) for run in times.split(",")]
    if not all(runs):
        raise OmniError(f"times is '{times}', wanted runs of seconds such as 0.5-1.2,2-2.4")
    return [(float(run[1]), float(run[2])) for run in runs if run]
