"""Decode generated ids into answer parts and media."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.media import (
    center_crop_and_resize,
    flatten_transparency,
    resample,
    tensor_to_image,
)
from lightning_omni.data.template import Template
from lightning_omni.generation.blending import blend_image, blend_speech
from lightning_omni.generation.history import TokenChange
from lightning_omni.generation.model_folder import ModelFolder
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.generation.text_blanks import TextWithBlanks
from lightning_omni.modalities import modality_named
from lightning_omni.types import Part

Content = str | Image.Image | NDArray[np.float32] | bytes
"""Text, picture, mono samples, or a file of a further modality."""


@dataclass(frozen=True, slots=True)
class GeneratedPart:
    """One answer part as generated.

    Attributes:
        part: the part with its text or codes, nothing masked.
        span: the response before sampling.
        ids: the response after sampling.
        ended: whether the answer ends within the response; else it is cut there.
        steps: denoising steps of the last attempt.
        forwards: forward passes of all attempts, and of looks at lengths.
        attempts: attempts with ever longer responses.
        candidates: blank lengths that were tried, with the log-probability of the text.
        history: tokens of every step; None if not recorded.
        dtype: format of matrix products; None if no pass was needed.
        kernels: kernels of attention, where they depend on the length of segments.
    """

    part: Part
    span: ResponseSpan
    ids: tuple[int, ...]
    ended: bool
    steps: int = 0
    forwards: int = 0
    attempts: int = 1
    candidates: tuple[dict[str, Any], ...] = ()
    history: list[TokenChange] | None = None
    dtype: torch.dtype | None = None
    kernels: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        optional = {
            "blanks": list(self.span.blank_lengths),
            "candidates": list(self.candidates),
            "history": self.history,
        }
        return {
            "modality": self.part.modality,
            "positions": len(self.ids),
            "masked": self.span.num_masked,
            "attempts": self.attempts,
            "ended": self.ended,
            "steps": self.steps,
            "forwards": self.forwards,
            "ids": list(self.ids),
            **{name: value for name, value in optional.items() if value},
        }


def decode_response(
    template: Template, own: Part, span: ResponseSpan, ids: tuple[int, ...]
) -> GeneratedPart:
    """Return an answer part with the content of its response.

    Args:
        template: the template that the response was rendered with.
        own: the part before it was generated.
        span: the response before sampling.
        ids: the response after sampling.
    """
    content, ended = cut_at_terminator(ids, own.modality, template)
    if own.modality != "text":
        codes = tuple(template.vocab.to_codes(own.modality, content))
        return GeneratedPart(Part(own.modality, codes=codes), span, ids, ended)
    text = own.text or ""
    if span.blanks:
        fillings = [template.decode_answer_text(content[start:stop]) for start, stop in span.blanks]
        text = TextWithBlanks.parse(text).replace_blanks(fillings)
    elif span.num_masked:
        text = template.decode_answer_text(content)
    return GeneratedPart(replace(own, text=text), span, ids, ended)


def cut_at_terminator(
    ids: tuple[int, ...], modality: str, template: Template
) -> tuple[list[int], bool]:
    """Cut a response at its terminator, and tell whether there is one."""
    declared = modality_named(modality)
    if declared.has_fixed_length:
        return list(ids), True
    ends = template.vocab.all_end_ids()
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    content = list(ids if stop is None else ids[:stop])
    frame = declared.frame_size(template.sizes)
    content = content[: len(content) // frame * frame]
    return content, stop is not None


class MediaDecoder:
    """Decodes codes to media.

    Args:
        model: the model, its tokenizers on `device`.
        device: device of the tokenizers.
    """

    def __init__(self, model: ModelFolder, *, device: torch.device) -> None:
        self.image, self.speech, self.files = model.image, model.speech, model.files
        self.columns, self.device = model.template.image_columns, device

    @torch.inference_mode()
    def decode(self, part: Part) -> Content:
        """Decode one answer part."""
        if part.modality == "text":
            return part.text or ""
        if part.modality in self.files:
            return self.files[part.modality].decode(list(part.codes or ()))
        codes = torch.tensor([list(part.codes or ())], device=self.device, dtype=torch.long)
        if part.modality == "image":
            return tensor_to_image(self.image.decode(codes, rows=self.columns)[0])
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        wave: NDArray[np.float32] = self.speech.decode(codes)[0].float().cpu().numpy()
        return wave

    def blend_with_original(
        self, content: Content, own: Content | None, masked: frozenset[int]
    ) -> Content:
        """Return generated media in which only masked codes differ from the user's own.

        Args:
            content: picture or samples as generated.
            own: the user's; None blends nothing.
            masked: positions of the codes that were generated.
        """
        if isinstance(content, Image.Image) and isinstance(own, Image.Image):
            pixels = center_crop_and_resize(
                flatten_transparency(own, "white"), self.image.image_size
            )
            return blend_image(content, pixels, masked, self.columns)
        if isinstance(content, np.ndarray) and isinstance(own, np.ndarray):
            speech = self.speech
            wave = np.ascontiguousarray(own, dtype=np.float32)
            if speech.decoded_rate != speech.sample_rate:
                wave = resample(wave, speech.sample_rate, speech.decoded_rate)
            return blend_speech(
                content,
                wave,
                {position // speech.num_codebooks for position in masked},
                hop_length=speech.decoded_hop_length,
                rate=speech.decoded_rate,
            )
        return content
