"""Log answers of the model in training to fixed prompts, and how they are denoised."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_omni.callbacks.first_process import FirstProcess
from lightning_omni.callbacks.tensorboard_media import MediaLog, Wave
from lightning_omni.data.encoding.loaded_tokenizers import load_file_tokenizers
from lightning_omni.data.media import tensor_to_image
from lightning_omni.data.omni_data import OmniData
from lightning_omni.generation.lengths import fit_length_rules
from lightning_omni.generation.model_folder import ModelFolder
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.modalities import SPEECH
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.sharding import is_sharded
from lightning_omni.samplers.loop import StepEvent
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechCodec
from lightning_omni.types import Part, Sample

log = logging.getLogger(__name__)

STRIP = 8
LENGTH_SAMPLES = 500


class Samples(L.Callback):
    """Logs `samples/<task>/...` and `denoise/...` for the first validation samples of each task.

    The request, the true answer (reference) and the model's answer stand side by side: as text in
    `text`, pictures in `real_then_generated`, and speech as sound in `<number>_request`,
    `<number>_reference` and `<number>_answer` and as spectrograms, in this order from top to
    bottom, in `<number>_spectrograms`. Given media are decoded from their codes, as the model knows
    them; their sounds are written once.

    `denoise/image_strip` shows a picture after each denoising step, `denoise/commit_order` the step
    at which each of its tokens was committed (dark first), `denoise/text` a text step by step.

    Args:
        every_n_steps: training steps between two evaluations; another follows at the end.
        num_per_task: prompts of each task.
        seed: seed of sampling, the same each time so that samples can be compared.
    """

    def __init__(self, every_n_steps: int, num_per_task: int, seed: int) -> None:
        self.every_n_steps, self.num_per_task, self.seed = every_n_steps, num_per_task, seed
        self.last_step = 0
        self._parts: dict[str, Any] = {}
        self._first_process = FirstProcess()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare for others to wait while the first process draws samples."""
        self._first_process.make_process_group()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log samples if it is time."""
        if trainer.global_step - self.last_step >= self.every_n_steps:
            self._log_samples(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log samples of the final weights, averaged ones if the run averages."""
        if trainer.global_step > self.last_step:
            self._log_samples(trainer, pl_module)

    def _log_samples(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_step = trainer.global_step
        data = trainer.datamodule  # type: ignore[attr-defined]
        takes_part = trainer.is_global_zero or is_sharded(pl_module)  # a pass gathers from all
        if isinstance(data, OmniData):
            with self._first_process.others_wait():
                if takes_part:
                    self._generate_samples(trainer, pl_module, data)

    def _generate_samples(
        self, trainer: L.Trainer, pl_module: L.LightningModule, data: OmniData
    ) -> None:
        assert isinstance(pl_module, MaskedDiffusionModule)  # noqa: S101
        start, media = time.perf_counter(), MediaLog(trainer)
        is_first = not self._parts
        omni = self._build_omni(data, pl_module)
        tasks = self._tasks_to_answer(data, omni.speech_tokenizer, log_reasons=is_first)
        for task in tasks:
            prompts = self._parts["prompts"][task]
            answers = omni.answer([p.unanswered() for p in prompts], seed=self.seed)
            _log_answers(media, omni, prompts, answers)
            _log_speech(media, omni, prompts, answers, with_given=is_first)
        if "t2i" in tasks:
            _log_denoising_pictures(media, omni, self._parts["prompts"]["t2i"][0], self.seed)
        texts = [t for t in ("caption", "asr", "tqa") if t in tasks]
        if texts:
            _log_denoising_text(media, omni, self._parts["prompts"][texts[0]][0], self.seed)
        pl_module.backbone.train()
        seconds = time.perf_counter() - start
        for logger in trainer.loggers:
            values = {"monitor/samples_s": seconds, "monitor/failures": float(media.failures)}
            logger.log_metrics(values, step=trainer.global_step)

    def _tasks_to_answer(
        self, data: OmniData, speech: SpeechCodec, *, log_reasons: bool
    ) -> list[str]:
        """Return the tasks that have prompts and whose answers can be decoded."""
        prompted = [task for task in data.tasks if self._parts["prompts"][task]]
        answered = [
            task for task in prompted if speech.can_decode or SPEECH not in task_named(task).outputs
        ]
        without = ", ".join(task for task in data.tasks if task not in prompted)
        if log_reasons and without:
            log.warning("no answers to %s are logged: the data have no samples in val", without)
        if log_reasons and not speech.can_decode:
            silent = ", ".join(task for task in prompted if task not in answered) or "any task"
            log.warning(
                "no speech and no answers to %s are logged: '%s' has no decoder",
                silent,
                data.speech_tokenizer,
            )
        return answered

    def _build_omni(self, data: OmniData, module: MaskedDiffusionModule) -> Omni:
        """Return the model in training as an `Omni`; its other parts are loaded once."""
        if not self._parts:
            seen = [data.samples(task, "train", limit=LENGTH_SAMPLES) for task in data.tasks]
            self._parts = {
                "image": ImageTokenizer.from_pretrained(data.image_tokenizer),
                "speech": SpeechCodec.from_pretrained(data.speech_tokenizer),
                "files": load_file_tokenizers(data.file_tokenizers),
                "lengths": fit_length_rules((s for task in seen for s in task), data.template),
                "template": data.template.without_tail_pads(),
                "prompts": {
                    task: data.samples(task, "val", limit=self.num_per_task) for task in data.tasks
                },
            }
        parts = {k: self._parts[k] for k in ("template", "image", "speech", "lengths", "files")}
        folder = ModelFolder(backbone=module.backbone, fingerprint="in training", **parts)
        return Omni(folder, device=str(module.device))


def _request_and_answer_parts(prompt: Sample) -> dict[str, list[Part]]:
    """Return the parts of the request and of the true answer, without transcript."""
    *before, last = prompt.turns
    return {
        "request": [part for turn in before for part in turn.parts],
        "reference": [part for part in last.parts if not part.is_transcript],
    }


def _log_answers(media: MediaLog, omni: Omni, prompts: list[Sample], answers: list[Answer]) -> None:
    """Log a table of texts, and a row of pictures."""
    rows, pictures = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        given, spoken = _request_and_answer_parts(prompt), str(prompt.meta.get("text", ""))
        own = [part for part in answer.sample.turns[-1].parts if not part.is_transcript]
        reference = _describe_parts(given["reference"])
        rows.append([_describe_parts(given["request"], spoken), reference, _describe_parts(own)])
        codes = [p for parts in given.values() for p in parts if p.modality == "image" and p.codes]
        pictures += [_decode_picture(omni, part.codes or ()) for part in codes]
        if answer.image is not None:
            pictures.append(answer.image)
    task = prompts[0].task if prompts else ""
    media.write_table(f"samples/{task}/text", ["request", "reference", "answer"], rows)
    media.write_images(f"samples/{task}/real_then_generated", pictures)


def _describe_parts(parts: Iterable[Part], spoken: str = "") -> str:
    """Return the texts of parts, media as `[image]` and speech as `[speech: what is said]`."""
    words = []
    for part in parts:
        if part.modality == "text":
            words.append(part.text or "")
        else:
            said = f": {spoken}" if part.modality == "speech" and spoken else ""
            words.append(f"[{part.modality}{said}]")
    return " ".join(words).strip()


def _log_speech(
    media: MediaLog, omni: Omni, prompts: list[Sample], answers: list[Answer], *, with_given: bool
) -> None:
    """Log all speech as spectrograms and the answers', with `with_given` the rest too, as sound."""
    if not omni.speech_tokenizer.can_decode:
        return
    rate = omni.speech_tokenizer.decoded_rate
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tag = f"samples/{prompt.task}/{i}"
        waves: list[Wave] = []
        for name, parts in _request_and_answer_parts(prompt).items():
            for part in parts:
                if part.modality == "speech" and part.codes:
                    wave = omni.decoder.decode(part)
                    assert isinstance(wave, np.ndarray)  # noqa: S101
                    waves.append(wave)
                    if with_given:
                        media.write_audio(f"{tag}_{name}", wave, rate)
        if answer.speech is not None:
            waves.append(answer.speech)
            media.write_audio(f"{tag}_answer", answer.speech, rate)
        media.write_spectrograms(f"{tag}_spectrograms", waves, rate)


def _log_denoising_pictures(media: MediaLog, omni: Omni, prompt: Sample, seed: int) -> None:
    """Log a picture after each of `STRIP` denoising steps; masked positions are grey."""
    span = omni.template.vocab.span("image")
    frames: list[Image.Image] = []
    masks: list[Tensor] = []

    def record_frame(event: StepEvent) -> None:
        ids = event.ids
        is_open = ids == omni.template.vocab.mask_token_id
        is_code = (ids >= span.start) & (ids < span.stop)
        held = ids[is_open | is_code]
        masked = held == omni.template.vocab.mask_token_id
        codes = (held - span.start).masked_fill(masked, 0)
        picture = _decode_picture(omni, tuple(codes.tolist()))
        frames.append(_grey_out_masked(picture, masked, omni.template.image_columns))
        masks.append(masked)

    text = next((p.text for p in prompt.turns[0].parts if p.modality == "text"), None)
    omni.generate("t2i", text=text, seed=seed, num_steps=STRIP, on_step=record_frame)
    media.write_images("denoise/image_strip", frames)
    if masks:
        order = torch.stack(masks).sum(0)
        media.write_images(
            "denoise/commit_order", [_draw_commit_order(order, omni.template.image_columns)]
        )


def _log_denoising_text(media: MediaLog, omni: Omni, prompt: Sample, seed: int) -> None:
    """Log a text after each denoising step; masks are blocks, special tokens dots."""
    frames: list[list[int]] = []
    (answer,) = omni.answer(
        [prompt.unanswered()], seed=seed, on_step=lambda event: frames.append(event.ids.tolist())
    )
    response = answer.record["parts"]["0"]["ids"]
    kept = [f for f in frames if len(f) == len(frames[-1])]
    starts = range(len(kept[-1]) - len(response), -1, -1)
    start = next(i for i in starts if kept[-1][i : i + len(response)] == response)
    rows = []
    for number, ids in enumerate(kept, start=1):
        tokens = [_token_glyph(omni, i) for i in ids[start : start + len(response)]]
        rows.append([str(number), "".join(tokens)])
    media.write_table("denoise/text", ["step", "answer"], rows)


def _token_glyph(omni: Omni, token_id: int) -> str:
    if token_id == omni.template.vocab.mask_token_id:
        return "\N{FULL BLOCK}"
    is_text = omni.template.vocab.modality_of(token_id) == "text"
    return omni.template.text.decode([token_id]) if is_text else "\N{MIDDLE DOT}"


def _draw_commit_order(order: Tensor, columns: int) -> Image.Image:
    """Return the step at which each token was committed as enlarged grey levels."""
    shade = (order.float() / order.max().clamp_min(1) * 255).to(torch.uint8)
    grid = Image.fromarray(shade.view(-1, columns).cpu().numpy(), "L")
    side = 8 * columns
    return grid.resize((side, side), Image.Resampling.NEAREST).convert("RGB")


def _decode_picture(omni: Omni, codes: tuple[int, ...]) -> Image.Image:
    with torch.inference_mode():
        grid = torch.tensor([codes], device=omni.device)
        pixels = omni.image_tokenizer.decode(grid, rows=omni.template.image_columns)
    return tensor_to_image(pixels[0])


def _grey_out_masked(picture: Image.Image, masked: Tensor, columns: int) -> Image.Image:
    side = picture.width // columns
    for i in masked.nonzero().flatten().tolist():
        row, column = divmod(i, columns)
        box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
        picture.paste((128, 128, 128), box)
    return picture
