"""Encode what a user gives into a sample whose last turn is to be generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.argument_checks import is_blank
from lightning_omni.data.media import (
    center_crop_and_resize,
    check_waveform,
    flatten_transparency,
    image_to_tensor,
    resample,
)
from lightning_omni.data.speech_feature_files import user_speech_parts
from lightning_omni.errors import OmniError
from lightning_omni.generation.model_folder import ModelFolder
from lightning_omni.generation.python_values import (
    check_picture,
    check_text,
    waveform_as_floats,
)
from lightning_omni.generation.text_blanks import TextWithBlanks
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.tasks import TASKS, Task
from lightning_omni.tokenizers.speech_features import (
    SpeechFeatureEncoder,
    check_encoder_fingerprint,
)
from lightning_omni.types import Part, Sample, Turn

Intervals = Sequence[tuple[float, float]]
"""Intervals `(start, end)` in seconds."""
_LIGHT = 128
_LISTED = 20
_NEEDS_ENCODER = (
    "the model reads speech through the features of an encoder, which its folder does not hold; "
    "give continuous_speech as in the recipe it was trained by"
)


@dataclass(frozen=True, slots=True)
class Infill:
    """An answer, or a part of one, that is to be completed; the rest of it stays as it is.

    Attributes:
        text: text in which `___` is a blank, and `___{2}` a blank of two tokens.
        image: a picture.
        mask: light where the picture is generated again, of any size; None keeps all of it.
        speech: mono samples in [-1, 1] at the speech tokenizer's rate.
        intervals: intervals of the speech that are generated again, in seconds; None keeps all.

    Raises:
        OmniError: If nothing is given, or a mask or intervals without their medium.
    """

    text: str | None = None
    image: Image.Image | None = None
    mask: Image.Image | None = None
    speech: NDArray[np.float32] | None = None
    intervals: Intervals | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, f.name) is None for f in fields(self)):
            raise OmniError("the infill is empty; give a text, an image or speech")
        check_mask_has_medium("mask", self.mask, "image", self.image)
        check_mask_has_medium("intervals", self.intervals, "speech", self.speech)

    def modalities(self) -> list[str]:
        """Return the modalities that are given."""
        return [name for name in ("text", "image", "speech") if getattr(self, name) is not None]


class Inputs(TypedDict, total=False):
    """Inputs of a task; see `Omni.generate`."""

    text: str | None
    image: Image.Image | None
    speech: NDArray[np.float32] | None
    voice: str | None
    mask: Image.Image | None
    intervals: Intervals | None
    infill: Infill | None
    media: Mapping[str, bytes] | None


class RequestEncoder:
    """Encodes requests for one model.

    Args:
        model: the model, its tokenizers on `device`.
        continuous_speech: filter bank and encoder of a model that reads speech as features.
        device: device of the tokenizers.

    Raises:
        OmniError: If the encoder is given but not needed, or is another than the model's.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        continuous_speech: SpeechFeatureEncoder | None,
        device: torch.device,
    ) -> None:
        self.needs_features = model.backbone.feature_projector is not None
        check_encoder_fingerprint(
            continuous_speech, model.encoder_fingerprint, is_needed=self.needs_features
        )
        self.text, self.image, self.speech = model.template.text, model.image, model.speech
        self.files, self.voices, self.device = model.files, model.voices, device
        self.image_columns = model.template.image_columns
        self.request_image_columns = model.template.request_image_columns
        self.features = None if continuous_speech is None else continuous_speech.to(device)

    @torch.inference_mode()
    def encode(self, task: Task, **inputs: Unpack[Inputs]) -> Sample:
        """Encode the inputs of a task into a sample whose answer is to be generated.

        Raises:
            OmniError: If an input is missing, superfluous or unusable.
        """
        text, image, speech = inputs.get("text"), inputs.get("image"), inputs.get("speech")
        media = inputs.get("media") or {}
        check_inputs(task, {"text": text, "image": image, "speech": speech, **media})
        check_mask_has_medium("mask", inputs.get("mask"), "image", image)
        check_mask_has_medium("intervals", inputs.get("intervals"), "speech", speech)
        meta = choose_voice(task, inputs.get("voice"), self.voices)
        request = []
        for modality in task.inputs:
            if modality == "text":
                self.text.encode(text or "")
                request.append(Part("text", text=text))
            elif modality == "image" and image is not None:
                request.append(self._encode_image(image, inputs.get("mask"), is_request=True))
            elif modality in media:
                request.append(self._encode_file(modality, media[modality]))
            elif speech is not None:
                request.append(
                    self._encode_speech(speech, inputs.get("intervals"), is_request=True)
                )
        infill = inputs.get("infill")
        known = {} if infill is None else self._encode_infill(task, infill)
        answer = tuple(known.get(modality, Part(modality)) for modality in task.outputs)
        turns = (Turn("user", tuple(request)), Turn("assistant", answer))
        return Sample("request", task.name, turns, meta)

    def check_speech_form(self, sample: Sample) -> None:
        """Check that a sample's speech is there in the form that the model reads.

        Raises:
            OmniError: If it is there as codes only, but the model reads features.
        """
        if self.needs_features and any(part.features is None for part in user_speech_parts(sample)):
            raise OmniError(f"sample '{sample.key}' holds speech as codes, but {_NEEDS_ENCODER}")

    def _encode_infill(self, task: Task, infill: Infill) -> dict[str, Part]:
        """Return the parts of the answer that are given, by modality."""
        check_infill(task, infill)
        parts: dict[str, Part] = {}
        if infill.text is not None:
            check_text(infill.text, "the infill's text")
            self.text.encode(infill.text)
            TextWithBlanks.parse(infill.text)
            parts["text"] = Part("text", text=infill.text)
        if infill.image is not None:
            parts["image"] = self._encode_image(infill.image, infill.mask, is_request=False)
        if infill.speech is not None:
            parts["speech"] = self._encode_speech(infill.speech, infill.intervals, is_request=False)
        return parts

    def _encode_file(self, modality: str, content: bytes) -> Part:
        if modality not in self.files:
            raise OmniError(f"the model was trained without {modality}; give another --model")
        return Part(modality, codes=tuple(self.files[modality].encode(content)))

    def _encode_image(
        self, image: Image.Image, mask: Image.Image | None, *, is_request: bool
    ) -> Part:
        check_picture(image, "image")
        if mask is not None:
            check_picture(mask, "mask")
        columns = self.request_image_columns if is_request else self.image_columns
        pixels = center_crop_and_resize(
            flatten_transparency(image, "white"), columns * self.image.downsample_factor
        )
        codes = self.image.encode(image_to_tensor(pixels)[None].to(self.device))
        masked = frozenset() if mask is None else masked_codes(image, mask, columns)
        return Part("image", codes=tuple(codes[0].tolist()), masked=masked)

    def _encode_speech(
        self, speech: NDArray[np.float32], intervals: Intervals | None, *, is_request: bool
    ) -> Part:
        own = waveform_as_floats(speech, "speech")
        rate, codebooks = self.speech.sample_rate, self.speech.num_codebooks
        check_waveform(own, rate, "speech")
        codes = self.speech.encode(torch.from_numpy(own)[None].to(self.device), sample_rate=rate)
        frames: list[int] = []
        if intervals is not None:
            hop = self.speech.hop_length
            frames = masked_frames(len(own), intervals, rate=rate, hop_length=hop)
        masked = frozenset(frame * codebooks + q for frame in frames for q in range(codebooks))
        features = self._encode_speech_features(own, rate, intervals) if is_request else None
        return Part("speech", codes=tuple(codes[0].tolist()), masked=masked, features=features)

    def _encode_speech_features(
        self, speech: NDArray[np.float32], rate: int, intervals: Intervals | None
    ) -> NDArray[np.float16] | None:
        """Return features of a request, Float16[K F]; None for a model that reads codes."""
        if not self.needs_features:
            return None
        if self.features is None:
            raise OmniError(_NEEDS_ENCODER)
        if intervals is not None:
            raise OmniError(
                "intervals mask codes of speech, but the model reads features, which reach across "
                "them; cut the sound instead"
            )
        wave = resample(speech, rate, SAMPLE_RATE)
        return self.features.encode(torch.from_numpy(wave), name="request")


def check_answerable(task: Task) -> None:
    """Check that a task has an answer of its own.

    Raises:
        OmniError: If it has none, naming the tasks that have one.
    """
    if not task.outputs:
        names = ", ".join(other.name for other in TASKS if other.outputs)
        raise OmniError(f"task '{task.name}' is for training; choose one of {names}")


def check_inputs(task: Task, given: Mapping[str, object | None]) -> None:
    """Check that a task gets its inputs and nothing else.

    Args:
        task: the task.
        given: inputs by modality; None where the user gave nothing.

    Raises:
        OmniError: If the task has no answer, or an input is missing, superfluous or empty.
    """
    check_answerable(task)
    for modality in dict.fromkeys((*given, *task.inputs)):
        value = given.get(modality)
        if (value is not None) != (modality in task.inputs):
            verb = "does not take" if value is not None else "needs"
            raise OmniError(
                f"task '{task.name}' ({task.title}) {verb} {modality}; it takes "
                f"{' and '.join(task.inputs) or 'nothing'}"
            )
    text = given.get("text")
    if text is None:
        return
    check_text(text, "text")
    if is_blank(str(text)):
        raise OmniError(f"task '{task.name}' got an empty text; say what you want")


def check_infill(task: Task, infill: Infill) -> None:
    """Check that a task answers with what is given of its answer.

    Raises:
        OmniError: If it does not.
    """
    for modality in infill.modalities():
        if modality not in task.outputs:
            raise OmniError(
                f"task '{task.name}' ({task.title}) answers with {' and '.join(task.outputs)}, "
                f"but the infill holds {modality}; leave it out or choose another task"
            )


def check_mask_has_medium(name: str, masked: object, modality: str, medium: object) -> None:
    """Check that a mask comes with an image, and intervals with speech.

    Raises:
        OmniError: If not.
    """
    if masked is not None and medium is None:
        raise OmniError(f"{name} is given without the {modality} it is for; give both")


def check_has_answer_to_generate(sample: Sample) -> None:
    """Check that the last turn of a sample is an answer with something to generate.

    Raises:
        OmniError: If it is not.
    """
    turn = sample.turns[-1]
    if turn.role != "assistant":
        raise OmniError(f"sample '{sample.key}' does not end with an assistant turn")
    parts = [part for part in turn.parts if not part.is_transcript]
    if not parts:
        raise OmniError(f"the last turn of sample '{sample.key}' has no parts; name what to answer")
    for number, part in enumerate(parts):
        if part.modality == "text" and part.codes is not None:
            raise OmniError(f"part {number} of the answer is text but holds codes; give text")
        _check_masked_positions(part, f"part {number} of the answer")
    for earlier in sample.turns[:-1]:
        for number, part in enumerate(earlier.parts):
            _check_masked_positions(part, f"part {number} of a turn of the {earlier.role}")
    if all(_has_nothing_to_generate(part) for part in parts):
        raise OmniError(
            f"nothing of the answer of sample '{sample.key}' is left to be generated; write ___ "
            "into its text, give a mask with its image or intervals with its speech, or empty it "
            "with sample.unanswered()"
        )


def _check_masked_positions(part: Part, name: str) -> None:
    num_codes = len(part.codes or ())
    for position in sorted(part.masked):
        if not 0 <= position < num_codes:
            raise OmniError(
                f"{name} masks code {position} but has {num_codes} codes, counted from 0"
            )


def _has_nothing_to_generate(part: Part) -> bool:
    if part.modality == "text":
        return bool(part.text) and not TextWithBlanks.parse(part.text or "").lengths
    return part.codes is not None and not part.masked


def choose_voice(task: Task, voice: str | None, known: tuple[str, ...]) -> dict[str, str]:
    """Return the voice of a sample: the one given, or one that the model knows.

    Args:
        task: the task.
        voice: voice that the user named, or None.
        known: voices that the model learned to speak with; empty if unknown.

    Raises:
        OmniError: If the task takes no voice, or the model does not know it.
    """
    if not task.takes_voice:
        if voice is not None:
            raise OmniError(f"task '{task.name}' ({task.title}) takes no voice")
        return {}
    if voice is None:
        default = task.default_voice
        return {"voice": default if default in known or not known else known[0]}
    if known and voice not in known:
        names = ", ".join(known[:_LISTED])
        raise OmniError(f"the model does not speak with the voice '{voice}'; it knows {names}")
    return {"voice": voice}


def masked_codes(image: Image.Image, mask: Image.Image, columns: int) -> frozenset[int]:
    """Return the positions of the image codes that a mask touches.

    Args:
        image: the picture, before its central square is cut out.
        mask: light where codes are masked, dark or transparent elsewhere; it is laid over the whole
            picture.
        columns: codes in a row of the square.

    Raises:
        OmniError: If the mask is dark all over the square.
    """
    is_light = np.asarray(flatten_transparency(mask, "black").convert("L")) >= _LIGHT
    side = min(image.size)
    across = _mask_pixels_of_cells(mask.width, image.width, side, columns)
    down = _mask_pixels_of_cells(mask.height, image.height, side, columns)
    touched = [
        row * columns + column
        for row, (top, bottom) in enumerate(down)
        for column, (left, right) in enumerate(across)
        if is_light[top:bottom, left:right].any()
    ]
    if not touched:
        raise OmniError(
            "the mask is empty: nothing of it over the picture is light; paint what is meant white"
        )
    return frozenset(touched)


def _mask_pixels_of_cells(
    mask_size: int, image_size: int, side: int, cells: int
) -> list[tuple[int, int]]:
    """Return the pixels of a mask that each cell of the central square's side touches."""
    whole = 2 * cells * image_size
    edges = [mask_size * ((image_size - side) * cells + 2 * i * side) for i in range(cells + 1)]
    return [(a // whole, -(-b // whole)) for a, b in pairwise(edges)]


def masked_frames(
    num_samples: int, intervals: Intervals, *, rate: int, hop_length: int
) -> list[int]:
    """Return the frames of speech that overlap with any of the intervals, ascending.

    Args:
        num_samples: length of the speech in samples.
        intervals: intervals in seconds.
        rate: samples per second.
        hop_length: samples per frame.

    Raises:
        OmniError: If there are no intervals, or some are not within the speech.
    """
    if not intervals:
        raise OmniError("intervals is empty; name at least one in seconds, as 0.5-1.2")
    found: set[int] = set()
    for start, end in intervals:
        first, last = ((round(x * rate) if np.isfinite(x) else -1) for x in (start, end))
        if not 0 <= first < last <= num_samples:
            raise OmniError(
                f"the interval {start:g}-{end:g} is not within the speech, which lasts "
                f"{num_samples * 1000 // rate / 1000:g} s; wanted a start before an end"
            )
        found.update(range(first // hop_length, -(-last // hop_length)))
    return sorted(found)
