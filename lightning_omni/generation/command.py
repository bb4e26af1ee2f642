"""`lightning_omni generate`: one task on one input, written to files with a record beside them."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import Progress

from lightning_omni import __version__
from lightning_omni.argument_checks import check_seed
from lightning_omni.data.media import (
    MAX_FILE_BYTES,
    png_bytes,
    read_audio,
    read_image,
    wave_bytes,
)
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.files import make_parent_folder, read_regular_file
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.generation.request import Infill, check_answerable, check_mask_has_medium
from lightning_omni.generation.text_blanks import BLANK
from lightning_omni.modalities import MODALITIES, modality_named
from lightning_omni.pretrained import BUNDLED, CONFIG_FILE, resolve_pretrained
from lightning_omni.tasks import Task, task_named
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.whole_files import write_files

log = logging.getLogger(__name__)

DEFAULT_MODELS = [
    "runs/finetune/export",
    "runs/stage3/export",
    "runs/demo/stage3/export",
    BUNDLED,
]
_FOREIGN = (".jpg", ".jpeg", ".webp", ".gif", ".flac", ".mp3", ".ogg", ".m4a")
_INTERVAL = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*-\s*(\d+(?:\.\d*)?|\.\d+)\s*")


def generate(
    task: str,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    voice: str | None = None,
    mask: str | None = None,
    intervals: str | None = None,
    infill_text: str | None = None,
    infill_image: str | None = None,
    infill_audio: str | None = None,
    media: dict[str, str] | None = None,
    out: str | None = None,
    model: str | None = None,
    seed: int = 0,
    continuous_speech: SpeechFeatureEncoder | None = None,
    device: str = AUTO,
    **options: Any,
) -> None:
    """Do one task and write the answer.

    Args:
        task: Task: asr, tts, t2i, caption, vqa, s2i, svqa, sqa, tqa or a task that you added.
        text: Prompt or question. With ___ for a task that takes no text: the same as infill_text.
        image: Image file. With a mask for a task that takes no image: the same as infill_image.
        audio: Sound file. With intervals for a task that takes no speech: the same as infill_audio.
        voice: Voice to speak with (tts); by default one that the model knows.
        mask: Image file, white where the answer's image is generated anew; if the task takes an
            image, where that is hidden from the model.
        intervals: Seconds such as 0.5-1.2,2-2.4 in which the answer's sound is generated anew; if
            the task takes speech, in which that is hidden from the model.
        infill_text: Partly given text of the answer; the model replaces each ___.
        infill_image: Partly given image of the answer; the model replaces what the mask covers.
        infill_audio: Partly given sound of the answer; the model replaces the intervals.
        media: File of each further modality that the task takes.
        out: Name of the output files, with or without suffix; by default the task's name.
        model: Folder of an exported model, or `bundled`; by default the first that exists of
            runs/finetune/export, runs/stage3/export, runs/demo/stage3/export and the bundled model.
        seed: Seed of all randomness.
        continuous_speech: Speech feature encoder; required if the model was trained with continuous
            speech input. Use the encoder of the training recipe.
        device: Device: auto, cpu, cuda or cuda:N.
        options: Settings of generation.
    """
    check_answerable(task_named(task))
    check_seed(seed)
    used = resolve_device(device)
    config = GenerationConfig(**options)
    files = InputFiles(
        text=text,
        image=image,
        audio=audio,
        mask=mask,
        intervals=intervals,
        infill_text=infill_text,
        infill_image=infill_image,
        infill_audio=infill_audio,
        media=media,
    ).assign_to_infill(task_named(task))
    stem = _output_stem(Path(task if out is None else out), task)
    omni = Omni.from_pretrained(
        _find_model_folder(model), continuous_speech=continuous_speech, device=str(used)
    )
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{task}: denoising", total=None)
        answer = omni.generate(
            task,
            voice=voice,
            seed=seed,
            on_step=lambda event: progress.update(bar, completed=event.number),
            config=config,
            **files.read_inputs(sample_rate=omni.speech_tokenizer.sample_rate),
        )
    for path in write_answer(answer, stem, request={"voice": voice, **asdict(files)}):
        log.info("wrote %s", path)
    for name, part in answer.record["parts"].items():
        if not part["ended"]:
            log.warning(
                "part %s did not end within %d tokens; it is cut there", name, part["positions"]
            )
    if answer.transcript is not None:
        log.info("transcript: %s", answer.transcript)
    if answer.text is not None:
        log.info("answer: %s", answer.text)


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Texts, intervals and file names as given on the command line; see `generate`."""

    text: str | None = None
    image: str | None = None
    audio: str | None = None
    mask: str | None = None
    intervals: str | None = None
    infill_text: str | None = None
    infill_image: str | None = None
    infill_audio: str | None = None
    media: dict[str, str] | None = None

    def assign_to_infill(self, task: Task) -> InputFiles:
        """Move inputs that the task does not take to the infill: text with blanks, masked media.

        Raises:
            OmniError: If there is a mask or intervals without a file for them, or the intervals are
                malformed.
        """
        out = self
        has_blank = self.text is not None and BLANK.search(self.text) is not None
        if "text" not in task.inputs and has_blank and self.infill_text is None:
            out = replace(out, text=None, infill_text=self.text)
        if "image" not in task.inputs and self.mask is not None and self.infill_image is None:
            out = replace(out, image=None, infill_image=self.image)
        if "speech" not in task.inputs and self.intervals is not None and self.infill_audio is None:
            out = replace(out, audio=None, infill_audio=self.audio)
        check_mask_has_medium("--mask", out.mask, "image", out.image or out.infill_image)
        check_mask_has_medium("--intervals", out.intervals, "audio", out.audio or out.infill_audio)
        if out.intervals is not None:
            parse_intervals(out.intervals)
        return out

    def read_inputs(self, *, sample_rate: int) -> dict[str, Any]:
        """Read the files into arguments of `Omni.generate`.

        Raises:
            OmniError: If a file cannot be read.
        """

        def read_picture(name: str | None, ground: str = "white") -> Image.Image | None:
            return None if name is None else read_image(Path(name), ground=ground)

        def read_sound(name: str | None) -> Any:
            return None if name is None else read_audio(Path(name), sample_rate=sample_rate)

        mask = read_picture(self.mask, "black")
        intervals = None if self.intervals is None else parse_intervals(self.intervals)
        answer = {
            "text": self.infill_text,
            "image": read_picture(self.infill_image),
            "speech": read_sound(self.infill_audio),
        }
        masks_answer = answer["image"] is not None
        cuts_answer = answer["speech"] is not None
        infill = None
        if any(value is not None for value in answer.values()):
            infill = Infill(
                **answer,
                mask=mask if masks_answer else None,
                intervals=intervals if cuts_answer else None,
            )
        return {
            "text": self.text,
            "image": read_picture(self.image),
            "speech": read_sound(self.audio),
            "mask": None if masks_answer else mask,
            "intervals": None if cuts_answer else intervals,
            "infill": infill,
            "media": {
                name: _read_media_file(Path(file)) for name, file in (self.media or {}).items()
            },
        }


def parse_intervals(intervals: str) -> list[tuple[float, float]]:
    """Parse `0.5-1.2,2-2.4` to intervals in seconds.

    Raises:
        OmniError: If it is malformed.
    """
    found = [_INTERVAL.fullmatch(interval) for interval in intervals.split(",")]
    if not all(found):
        raise OmniError(f"intervals is '{intervals}', wanted seconds such as 0.5-1.2,2-2.4")
    return [(float(match[1]), float(match[2])) for match in found if match]


def write_answer(answer: Answer, stem: Path, *, request: dict[str, Any]) -> list[Path]:
    """Write each modality of an answer and its JSON record as `<stem>.*`; return the paths.

    Raises:
        OmniError: If that fails; earlier files of these names are unchanged.
    """
    contents: dict[Path, bytes] = {}
    if answer.text is not None:
        text = answer.text.encode("utf-8", "backslashreplace")
        contents[_answer_path(stem, "text")] = text + b"\n"
    if answer.image is not None:
        contents[_answer_path(stem, "image")] = png_bytes(answer.image)
    if answer.speech is not None:
        sound = wave_bytes(answer.speech, answer.sample_rate)
        contents[_answer_path(stem, "speech")] = sound
    for modality, content in answer.media.items():
        contents[_answer_path(stem, modality)] = content
    record = {"version": __version__, "request": request, **answer.record}
    if answer.transcript is not None:
        record["transcript"] = answer.transcript
    record["files"] = [path.name for path in contents]
    contents[stem.with_name(stem.name + ".json")] = f"{json.dumps(record, indent=2)}\n".encode()
    write_files(contents)
    return list(contents)


def _read_media_file(path: Path) -> bytes:
    try:
        return read_regular_file(path, limit=MAX_FILE_BYTES)
    except OSError as error:
        raise OmniError(f"cannot read '{path}' ({error.strerror})") from error


def _answer_path(stem: Path, modality: str) -> Path:
    return stem.with_name(stem.name + modality_named(modality).suffix)


def _output_stem(out: Path, task: str) -> Path:
    """Cut a known suffix off `out` and check that the files of the task can be written."""
    if out.suffix.lower() in _FOREIGN:
        raise OmniError(f"--out names a {out.suffix} file; pictures are .png, sound is .wav")
    if not out.name or out.name == "..":
        raise OmniError(f"--out is '{out}', wanted the name of a file without its suffix")
    suffixes = [modality.suffix for modality in MODALITIES]
    stem = out.with_suffix("") if out.suffix in (*suffixes, ".json") else out
    for modality in task_named(task).outputs:
        make_parent_folder(_answer_path(stem, modality))
    make_parent_folder(stem.with_name(stem.name + ".json"))
    return stem


def _find_model_folder(model: str | None) -> Path:
    folder = resolve_pretrained(DEFAULT_MODELS if model is None else model)
    if not (folder / CONFIG_FILE).is_file():
        raise OmniError(
            f"no joint model in '{folder}'; train one with `make demo` or give --model with an "
            "exported folder"
        )
    return folder
