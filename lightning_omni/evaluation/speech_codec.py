"""What a speech tokenizer loses: words a recognizer no longer hears, opinion, log-mel distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.media import Recording
from lightning_omni.evaluation.predictions import Recognizer
from lightning_omni.evaluation.scorers import error_rates
from lightning_omni.evaluation.statistics import (
    Measured,
    bootstrap_difference,
    bootstrap_interval,
    mean_over,
)
from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.metrics.dnsmos import DNSMOS
from lightning_omni.nn.codec.mel_codec import LogMel
from lightning_omni.tokenizers.speech import SpeechTokenizer


@dataclass(frozen=True, slots=True)
class Heard:
    """What a recognizer and DNSMOS make of recordings: of the real ones, or of their codes."""

    wer: Measured
    cer: Measured
    dnsmos: Measured


@dataclass(frozen=True, slots=True)
class LevelScores:
    """With the first `levels` codebooks.

    `wer_increase` is the word error rate less that of the same recordings uncoded, its interval
    from the same resampled utterances.
    """

    levels: int
    tokens_per_second: float
    heard: Heard
    wer_increase: Measured
    mel_l1: float


@dataclass(frozen=True, slots=True)
class SpeechCodecScores:
    """Of `n` recordings; `usage` and `perplexity` are per codebook."""

    real: Heard
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
    """Reconstruct recordings with one codebook, with two, and so on.

    Raises:
        OmniError: If there are none, or one has no transcript.
    """
    if not recordings:
        raise OmniError("no recordings to reconstruct; name a split that has some")
    sentences = [_text_of(r) for r in recordings]
    listener = _Listener(recognizer, opinion, sentences, tokenizer.sample_rate, seed)
    real_errors, real = listener.hear([r.wave for r in recordings])
    quantizer = tokenizer.quantizer
    use = [CodebookUse(quantizer.codebook_size) for _ in range(quantizer.num_codebooks)]
    log_mel = LogMel(tokenizer.sample_rate, 640, 160, 80)
    waves: list[list[NDArray[np.float32]]] = [[] for _ in use]
    distance = [0.0 for _ in use]
    for recording in recordings:
        wave = torch.from_numpy(recording.wave)[None]
        padded = F.pad(wave, (0, -wave.shape[1] % tokenizer.hop_length))
        codes = quantizer.encode(tokenizer.encoder(padded), num_codebooks=quantizer.num_codebooks)
        for level, counter in enumerate(use):
            counter.update(codes[..., level])
            made, _ = tokenizer.decoder(quantizer.decode(codes[..., : level + 1]))
            made = made.clamp(-1, 1)
            distance[level] += float(F.l1_loss(log_mel(made), log_mel(padded)))
            waves[level].append(made[0, : wave.shape[1]].numpy())
    by_level = []
    for level, made in enumerate(waves):
        errors, heard = listener.hear(made)
        increase = bootstrap_difference(errors, real_errors, listener.lengths, seed=seed)
        by_level.append(
            LevelScores(
                levels=level + 1,
                tokens_per_second=tokenizer.frame_rate * (level + 1),
                heard=heard,
                wer_increase=increase,
                mel_l1=distance[level] / len(recordings),
            )
        )
    computed = [counter.compute() for counter in use]
    return SpeechCodecScores(
        real=real,
        by_level=by_level,
        usage=[float(c["usage"]) for c in computed],
        perplexity=[float(c["perplexity"]) for c in computed],
        n=len(recordings),
    )


class _Listener:
    """Hears the same sentences again and again."""

    def __init__(
        self,
        recognizer: Recognizer,
        opinion: DNSMOS,
        sentences: Sequence[str],
        sample_rate: int,
        seed: int,
    ) -> None:
        self.recognizer, self.opinion, self.sentences = recognizer, opinion, sentences
        self.sample_rate, self.seed = sample_rate, seed
        self.lengths = [error_rates("", s)["wer"][1] for s in sentences]

    def hear(self, waves: Sequence[NDArray[np.float32]]) -> tuple[list[float], Heard]:
        """Word errors of each sentence, and the summary."""
        said = [self.recognizer.transcribe(w, self.sample_rate) for w in waves]
        rates = [error_rates(h, s) for h, s in zip(said, self.sentences, strict=True)]
        score = [self.opinion.overall(w, self.sample_rate) for w in waves]
        words, characters = [r["wer"] for r in rates], [r["cer"] for r in rates]
        heard = Heard(self._rate(words), self._rate(characters), mean_over(score, seed=self.seed))
        return [w[0] for w in words], heard

    def _rate(self, counts: Sequence[tuple[float, float]]) -> Measured:
        tops, bottoms = [c[0] for c in counts], [c[1] for c in counts]
        low, high = bootstrap_interval(tops, bottoms, seed=self.seed)
        return Measured(sum(tops) / sum(bottoms), low, high)


def _text_of(recording: Recording) -> str:
    if not recording.text:
        raise OmniError(
            "a recording has no transcript, so its words cannot be counted; prepare the data again"
        )
    return recording.text
