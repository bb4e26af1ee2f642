"""The `evaluate-tokenizers` verb: codec reconstruction of unseen pictures and recordings."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_omni.argument_checks import check_within
from lightning_omni.data.shard_checks import check_prepared_shards
from lightning_omni.data.shards import read_samples
from lightning_omni.data.storage.locations import Location, parse_location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import check_splits
from lightning_omni.evaluation.examples import draw_samples, first_part, scene_samples
from lightning_omni.evaluation.image_codec import ImageCodecScores, score_image_codec
from lightning_omni.evaluation.original_media import read_images, read_speech
from lightning_omni.evaluation.provenance import manifest_hash, provenance
from lightning_omni.evaluation.speech_codec import SpeechCodecScores, score_speech_codec
from lightning_omni.evaluation.statistics import Estimate
from lightning_omni.files import make_folder
from lightning_omni.metrics.dnsmos import DNSMOS
from lightning_omni.metrics.recognizer import Recognizer
from lightning_omni.nn.computation import computation_facts
from lightning_omni.pretrained import fingerprint, resolve_pretrained
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)


def evaluate_tokenizers(
    *,
    data: str,
    out: Path,
    splits: list[str],
    limit: int,
    speech_limit: int,
    seed: int,
    image_tokenizer: Path | None = None,
    speech_tokenizer: Path | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Evaluate tokenizers without a model and write `tokenizers.json` and `tokenizers.md`.

    Args:
        data: Folder or URL written by prep-data.
        out: Folder for the results.
        splits: Test splits.
        limit: Number of scenes per split, drawn by the seed.
        speech_limit: Number of recordings per split.
        seed: Seed of the draw and of bootstrap intervals.
        image_tokenizer: Folder of an exported image tokenizer; None leaves pictures out.
        speech_tokenizer: Folder of an exported speech tokenizer; None leaves speech out.
        device: Device: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If a folder, a split or the device does not exist, or nothing is to be evaluated.
    """
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    prepared = parse_location(data)
    arguments["data"] = str(prepared)  # without credentials
    _check_arguments(image_tokenizer, speech_tokenizer, splits, limit=min(limit, speech_limit))
    check_within("seed", seed, 0)
    used = resolve_device(device)
    make_folder(out)
    check_prepared_shards(prepared)
    folders = {
        name: resolve_pretrained(str(folder), f"{name}_tokenizer")
        for name, folder in (("image", image_tokenizer), ("speech", speech_tokenizer))
        if folder is not None
    }
    images: dict[str, ImageCodecScores] = {}
    speech: dict[str, SpeechCodecScores] = {}
    computation: dict[str, dict[str, str]] = {}
    if "image" in folders:
        image_codec = ImageTokenizer.from_pretrained(folders["image"]).to(used)
        computation["image"] = computation_facts(image_codec)
        images = _score_image_tokenizer(image_codec, prepared, splits, limit, seed)
    if "speech" in folders:
        speech_codec = SpeechTokenizer.from_pretrained(folders["speech"]).to(used)
        computation["speech"] = computation_facts(speech_codec)
        speech = _score_speech_tokenizer(speech_codec, prepared, splits, speech_limit, seed)
    if not (images or speech):
        raise OmniError(f"'{prepared}' has no scenes and no recordings in {', '.join(splits)}")
    results = {
        "image": {split: asdict(scores) for split, scores in images.items()},
        "speech": {split: asdict(scores) for split, scores in speech.items()},
        "fingerprints": {name: fingerprint(folder) for name, folder in folders.items()},
        "manifest_sha256": manifest_hash(prepared),
        "arguments": arguments,
        **provenance(used),
        "computation": computation,
    }
    write_text(out / "tokenizers.json", json.dumps(results, indent=1) + "\n")
    write_text(out / "tokenizers.md", tokenizer_tables(images, speech))
    log.info("wrote %s", out / "tokenizers.md")
    return results


def _check_arguments(
    image_tokenizer: Path | None, speech_tokenizer: Path | None, splits: list[str], *, limit: int
) -> None:
    if image_tokenizer is None and speech_tokenizer is None:
        raise OmniError("nothing to evaluate: give image_tokenizer or speech_tokenizer")
    check_splits(splits)
    if limit < 1:
        raise OmniError(f"limit is {limit}, wanted at least 1 per split")


def _score_image_tokenizer(
    codec: ImageTokenizer, data: Location, splits: list[str], limit: int, seed: int
) -> dict[str, ImageCodecScores]:
    scores: dict[str, ImageCodecScores] = {}
    for split in splits:
        if keys := draw_scene_keys(data, split, limit=limit, seed=seed):
            pictures = read_images(data, set(keys))
            scores[split] = score_image_codec(codec, [pictures[k] for k in keys], seed=seed)
            log.info("image tokenizer on %s: done", split)
    return scores


def _score_speech_tokenizer(
    codec: SpeechTokenizer, data: Location, splits: list[str], limit: int, seed: int
) -> dict[str, SpeechCodecScores]:
    recognizer, opinion = Recognizer(), DNSMOS()
    scores: dict[str, SpeechCodecScores] = {}
    for split in splits:
        if keys := draw_recording_keys(data, split, limit=limit, seed=seed):
            found = read_speech(data, set(keys))
            scores[split] = score_speech_codec(
                codec,
                [found[k] for k in keys],
                recognizer=recognizer,
                opinion=opinion,
                seed=seed,
            )
            log.info("speech tokenizer on %s: done", split)
    return scores


def draw_scene_keys(data: Location, split: str, *, limit: int, seed: int) -> list[str]:
    """Draw keys of pictures of scenes from a split."""
    by_image = {
        part.key: s
        for s in scene_samples(data, split)
        for role in ("user", "assistant")
        if (part := first_part(s, role, "image")) is not None
    }
    key_of = {s.key: key for key, s in by_image.items()}
    chosen = draw_samples(list(by_image.values()), limit, seed=seed, salt=f"image/{split}")
    return [str(key_of[s.key]) for s in chosen]


def draw_recording_keys(data: Location, split: str, *, limit: int, seed: int) -> list[str]:
    """Draw keys of the recordings of a split's asr samples."""
    samples = read_samples(data / "tasks", "asr", split)
    chosen = draw_samples(samples, limit, seed=seed, salt=f"speech/{split}")
    parts = [first_part(s, "user", "speech") for s in chosen]
    return [p.key for p in parts if p is not None and p.key is not None]


def tokenizer_tables(
    images: dict[str, ImageCodecScores], speech: dict[str, SpeechCodecScores]
) -> str:
    """Return the scores by split as two Markdown tables."""
    lines: list[str] = []
    if images:
        lines += [
            "| split | n | PSNR dB | SSIM | codes used | perplexity | bits per flat patch |",
            "|---|---|---|---|---|---|---|",
        ]
    for split, s in images.items():
        flat = "–" if s.flat_entropy_bits is None else f"{s.flat_entropy_bits:.2f}"
        lines.append(
            f"| {split} | {s.n} | {_estimate_text(s.psnr_db, 2)} | {_estimate_text(s.ssim, 3)} | "
            f"{s.usage:.1%} | {s.perplexity:.0f} | {flat} |"
        )
    if speech:
        lines += [
            "",
            "| split | n | tokens/s | WER ↓ | minus ground truth ↓ | CER ↓ | DNSMOS | log-mel L1 ↓ "
            "| codes used |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for split, v in speech.items():
        original = v.ground_truth
        lines.append(
            f"| {split} | {v.n} | ground truth | {_estimate_text(original.wer, 3)} | – | "
            f"{_estimate_text(original.cer, 3)} | {_estimate_text(original.dnsmos, 2)} | – | – |"
        )
        for level, used in zip(v.by_level, v.usage, strict=True):
            decoded = level.reconstruction
            lines.append(
                f"| {split} | {v.n} | {level.tokens_per_second:.0f} | "
                f"{_estimate_text(decoded.wer, 3)} | "
                f"{_estimate_text(level.wer_increase, 3)} | {_estimate_text(decoded.cer, 3)} | "
                f"{_estimate_text(decoded.dnsmos, 2)} | {level.mel_l1:.3f} | {used:.1%} |"
            )
    return "\n".join(lines).strip() + "\n"


def _estimate_text(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"
