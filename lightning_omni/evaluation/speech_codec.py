"""Scores of a speech tokenizer: word errors, opinion scores and log-mel distance by codebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.original_media import Recording
from lightning_omni.evaluation.predictions import Recognizer
from lightning_omni.evaluation.scorers import error_rates
from lightning_omni.evaluation.statistics import (
    Estimate,
    bootstrap_difference,
    mean_of_values,
    ratio_of_sums,
)
from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.metrics.dnsmos import DNSMOS
from lightning_omni.nn.codec.mel_codec import LogMel
from lightning_omni.tokenizers.speech import SpeechTokenizer


@dataclass(frozen=True, slots=True)
class SpeechScores:
    """Scores of recordings: error rates by a recognizer, and mean opinion score by DNSMOS."""

    wer: Estimate
    cer: Estimate
    dnsmos: Estimate


@dataclass(frozen=True, slots=True)
class LevelScores:
    """Scores of recordings decoded from their first `levels` codebooks.

    Attributes:
        levels: Number of codebooks.
        tokens_per_second: Codes per second of speech.
        reconstruction: Scores of the decoded recordings.
        wer_increase: Word error rate minus that of the ground truth, with the interval of paired
            utterances.
        mel_l1: Mean absolute difference of log-mel spectrograms.
    """

    levels: int
    tokens_per_second: float
    reconstruction: SpeechScores
    wer_increase: Estimate
    mel_l1: float


@dataclass(frozen=True, slots=True)
class SpeechCodecScores:
    """Scores over `n` recordings.

    Attributes:
        ground_truth: Scores of the original recordings.
        by_level: Scores with one codebook, with two, and so on.
        usage: Share of the codes that occur, per codebook.
        perplexity: Perplexity of the distribution of codes, per codebook.
        n: Number of recordings.
    """

    ground_truth: SpeechScores
    by_level: list[LevelScores]
    usage: list[float]
    perplexity: list[float]
    n: int


@torch.inference_mode()
def score_speech_codec(
    tokenizer: SpeechTokenizer,
    recordings: Sequence[Recording],
    *,
    recognizer: Recognizer,
    opinion: DNSMOS,
    seed: int,
) -> SpeechCodecScores:
    """Score the reconstructions of recordings from one codebook, from two, and so on.

    Args:
        tokenizer: Speech tokenizer.
        recordings: Recordings with transcripts.
        recognizer: Speech recognizer.
        opinion: Predictor of opinion scores.
        seed: Seed of bootstrap intervals.

    Raises:
        OmniError: If there are no recordings, or one has no transcript.
    """
    if not recordings:
        raise OmniError("no recordings to reconstruct; name a split that has some")
    sentences = [_require_transcript(r) for r in recordings]
    scorer = _SpeechScorer(recognizer, opinion, sentences, tokenizer.sample_rate, seed)
    lengths = [error_rates("", s)["wer"][1] for s in sentences]
    original_errors, ground_truth = scorer.score([r.wave for r in recordings])
    quantizer = tokenizer.quantizer
    use = [CodebookUse(quantizer.codebook_size) for _ in range(quantizer.num_codebooks)]
    log_mel = LogMel(tokenizer.sample_rate, 640, 160, 80).to(tokenizer.device)
    waves: list[list[NDArray[np.float32]]] = [[] for _ in use]
    distance = [0.0 for _ in use]
    for recording in recordings:
        wave = torch.from_numpy(recording.wave)[None].to(tokenizer.device)
        padded = F.pad(wave, (0, -wave.shape[1] % tokenizer.hop_length))
        codes = quantizer.encode(tokenizer.encoder(padded), num_codebooks=quantizer.num_codebooks)
        for level, counter in enumerate(use):
            counter.update(codes[..., level].cpu())
            decoded, _ = tokenizer.decoder(quantizer.decode(codes[..., : level + 1]))
            decoded = decoded.clamp(-1, 1)
            distance[level] += float(F.l1_loss(log_mel(decoded), log_mel(padded)))
            waves[level].append(decoded[0, : wave.shape[1]].cpu().numpy())
    by_level = []
    for level, decoded_waves in enumerate(waves):
        errors, reconstruction = scorer.score(decoded_waves)
        increase = bootstrap_difference(errors, original_errors, lengths, seed=seed)
        by_level.append(
            LevelScores(
                levels=level + 1,
                tokens_per_second=tokenizer.frame_rate * (level + 1),
                reconstruction=reconstruction,
                wer_increase=increase,
                mel_l1=distance[level] / len(recordings),
            )
        )
    computed = [counter.compute() for counter in use]
    return SpeechCodecScores(
        ground_truth=ground_truth,
        by_level=by_level,
        usage=[float(c["usage"]) for c in computed],
        perplexity=[float(c["perplexity"]) for c in computed],
        n=len(recordings),
    )


@dataclass(frozen=True, slots=True)
class _SpeechScorer:
    """Scores recordings of the same sentences by several codecs."""

    recognizer: Recognizer
    opinion: DNSMOS
    sentences: Sequence[str]
    sample_rate: int
    seed: int

    def score(self, waves: Sequence[NDArray[np.float32]]) -> tuple[list[float], SpeechScores]:
        """Return the number of word errors of each sentence, and the scores of all."""
        found = [self.recognizer.transcribe(w, self.sample_rate) for w in waves]
        rates = [error_rates(f, s) for f, s in zip(found, self.sentences, strict=True)]
        opinions = [self.opinion.overall(w, self.sample_rate) for w in waves]
        words, characters = [r["wer"] for r in rates], [r["cer"] for r in rates]
        scores = SpeechScores(
            self._error_rate(words),
            self._error_rate(characters),
            mean_of_values(opinions, seed=self.seed),
        )
        return [edits for edits, _ in words], scores

    def _error_rate(self, counts: Sequence[tuple[float, float]]) -> Estimate:
        edits, lengths = [c[0] for c in counts], [c[1] for c in counts]
        return ratio_of_sums(edits, lengths, seed=self.seed)


def _require_transcript(recording: Recording) -> str:
    if not recording.text:
        raise OmniError(
            "a recording has no transcript, so its words cannot be counted; prepare the data again"
        )
    return recording.text
