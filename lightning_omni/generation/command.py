"""`lightning_omni generate`: one task on one input, written to files with a record beside them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import soundfile
from rich.progress import Progress

from lightning_omni import __version__
from lightning_omni.errors import OmniError
from lightning_omni.files import make_room_for
from lightning_omni.generation.config import (
    LengthChoice,
    Precision,
    Sampling,
    SamplingOptions,
    check_seed,
)
from lightning_omni.generation.defaults import Quality
from lightning_omni.generation.given_files import GivenFiles
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.generation.request import check_answerable
from lightning_omni.pretrained import CONFIG_FILE, SHIPPED, locate
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.growth import Growth
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.speech_features import ContinuousSpeech

log = logging.getLogger(__name__)

SUFFIXES = {"text": ".txt", "image": ".png", "speech": ".wav"}
_FOREIGN = (".jpg", ".jpeg", ".webp", ".gif", ".flac", ".mp3", ".ogg", ".m4a")
DEFAULT_MODELS = [
    "runs/finetune/export",
    "runs/stage3/export",
    "runs/demo/stage3/export",
    SHIPPED,
]


def generate(
    task: str,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    voice: str | None = None,
    mask: str | None = None,
    times: str | None = None,
    draft_text: str | None = None,
    draft_image: str | None = None,
    draft_audio: str | None = None,
    out: str | None = None,
    model: str | None = None,
    seed: int = 0,
    quality: Quality = "balanced",
    steps: int | None = None,
    steps_per_token: float | None = None,
    guidance: float | dict[str, float] | None = None,
    final_guidance: float | None = None,
    temperature: float | None = None,
    refresh_every: int | None = None,
    sampler: Sampler | None = None,
    block_size: int | None = None,
    precision: Precision = "float32",
    shift: float | dict[str, float] = 1.0,
    stop_at_end: bool = True,
    length: LengthChoice = "fitted",
    length_quantile: float | None = None,
    grow: Growth | None = None,
    trace: bool = False,
    continuous_speech: ContinuousSpeech | None = None,
) -> None:
    """Do one task and write the answer.

    Args:
        task: One of asr, tts, t2i, caption, vqa, s2i, svqa, sqa, tqa.
        text: Prompt or question; where the task takes none and this holds ___, it is the draft.
        image: Picture file; where the task takes none and there is a mask, it is the draft.
        audio: Sound file; where the task takes none and there are times, it is the draft.
        voice: Voice to speak with (tts); by default one that the model knows.
        mask: Picture file, light where the draft's picture is drawn anew, or where the model does
            not see the picture it is asked about.
        times: Seconds such as 0.5-1.2,2-2.4 in which the draft's sound is said anew, or in which
            the model does not hear the sound it is asked about.
        draft_text: The answer's text, with ___ where it is to be filled.
        draft_image: The answer's picture, to be drawn anew where the mask is light.
        draft_audio: The answer's sound, to be said anew in the times.
        out: Where to write, without or with a suffix; by default the task's name in this folder.
        model: Exported model folder; by default stage 3's of this folder, else the demo's, else the
            one that comes with the package.
        seed: Of all randomness.
        quality: How much time to spend: see `inference/defaults.py` and docs/results/sampling.md.
            The options below overrule it.
        steps: Denoising steps of each hole.
        steps_per_token: Steps as a share of a hole's positions, in place of steps.
        guidance: Classifier-free guidance scale, or one for each modality of the request, as
            '{"image": 1.0}'.
        final_guidance: What the scale becomes as the masks run out.
        temperature: 0 takes the likeliest tokens. A sampler has its own: --sampler.temperature.
        refresh_every: Steps between two passes over the whole prompt; 1 is exact.
        sampler: Class of lightning_omni.samplers that decides which tokens are committed.
        block_size: Fill in blocks of so many positions, from left to right.
        precision: Format of the network's matrix products.
        shift: Of the schedule's times: above 1 commits late, below 1 early; or one for each
            modality of the answer, as '{"text": 0.33}'.
        stop_at_end: Take no steps for what lies behind an answer's end.
        length: How long holes are: by rules fitted on training answers, as longest in training, as
            predicted by the network, or as its length head says.
        length_quantile: Of the head's distribution: the chance that an answer fits; None is 0.9.
        grow: Let holes of text grow while they are filled; '{}' takes DAEDAL's numbers.
        trace: Write every step's tokens and confidences into the record.
        continuous_speech: By what a model with a projector hears, as in the recipe it was trained
            by: a class and its arguments.
    """
    check_answerable(task_named(task))
    check_seed(seed)
    sampling: SamplingOptions = {
        "quality": quality,
        "num_steps": steps,
        "steps_per_token": steps_per_token,
        "guidance_scale": guidance,
        "final_guidance_scale": final_guidance,
        "temperature": temperature,
        "refresh_every": refresh_every,
        "sampler": sampler,
        "block_size": block_size,
        "precision": precision,
        "shift": shift,
        "stop_at_end": stop_at_end,
        "length": length,
        "length_quantile": length_quantile,
        "grow": grow,
        "trace": trace,
    }
    Sampling(**sampling)
    files = GivenFiles(
        text=text,
        image=image,
        audio=audio,
        mask=mask,
        times=times,
        draft_text=draft_text,
        draft_image=draft_image,
        draft_audio=draft_audio,
    ).sorted_for(task_named(task))
    stem = _stem(Path(task if out is None else out), task)
    omni = Omni.from_pretrained(_model_folder(model), continuous_speech=continuous_speech)
    rate = omni.speech_tokenizer.sample_rate
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{task}: denoising", total=None)
        answer = omni.generate(
            task,
            voice=voice,
            seed=seed,
            on_step=lambda event: progress.update(bar, completed=event.number),
            **files.read(sample_rate=rate),
            **sampling,
        )
    asked = {"voice": voice, **asdict(files)}
    for path in write_answer(answer, stem, asked=asked):
        log.info("wrote %s", path)
    for name, hole in answer.record["holes"].items():
        if not hole["closed"]:
            log.warning(
                "part %s did not end within %d tokens; it is cut there", name, hole["positions"]
            )
    if answer.transcript is not None:
        log.info("heard: %s", answer.transcript)
    if answer.text is not None:
        log.info("answer: %s", answer.text)


def write_answer(answer: Answer, stem: Path, *, asked: dict[str, Any]) -> list[Path]:
    """Write each modality of an answer and its JSON record as `<stem>.*`; returns the paths."""
    written = []
    if answer.text is not None:
        written.append(stem.with_name(stem.name + SUFFIXES["text"]))
        written[-1].write_text(answer.text + "\n")
    if answer.image is not None:
        written.append(stem.with_name(stem.name + SUFFIXES["image"]))
        answer.image.save(written[-1])
    if answer.speech is not None:
        written.append(stem.with_name(stem.name + SUFFIXES["speech"]))
        soundfile.write(written[-1], answer.speech, answer.sample_rate)
    record = {"version": __version__, "asked": asked, **answer.record}
    if answer.transcript is not None:
        record["transcript"] = answer.transcript
    record["files"] = [path.name for path in written]
    written.append(stem.with_name(stem.name + ".json"))
    written[-1].write_text(json.dumps(record, indent=2) + "\n")
    return written


def _stem(out: Path, task: str) -> Path:
    """Cut a suffix that is ours off `out` and make room for the files of the task."""
    if out.suffix.lower() in _FOREIGN:
        raise OmniError(f"--out names a {out.suffix} file; pictures are .png, sound is .wav")
    if not out.name or out.name == "..":
        raise OmniError(f"--out is '{out}', wanted the name of a file without its suffix")
    stem = out.with_suffix("") if out.suffix in (*SUFFIXES.values(), ".json") else out
    suffixes = [SUFFIXES[modality] for modality in task_named(task).answers]
    for suffix in (*suffixes, ".json"):
        make_room_for(stem.with_name(stem.name + suffix))
    return stem


def _model_folder(model: str | None) -> Path:
    folder = locate(DEFAULT_MODELS if model is None else model)
    if not (folder / CONFIG_FILE).is_file():
        raise OmniError(
            f"no joint model in '{folder}'; train one with `make demo` or give --model with an "
            "exported folder"
        )
    return folder
