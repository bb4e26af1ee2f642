"""Codec scores: exact where the answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.image_codec import (
    conditional_entropy_bits,
    flat_patches,
    score_image_codec,
)
from lightning_omni.evaluation.original_media import Recording
from lightning_omni.evaluation.speech_codec import score_speech_codec
from lightning_omni.evaluation.statistics import bootstrap_difference, mean_of_values
from lightning_omni.metrics.dnsmos import DNSMOS
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.nn.codec.residual_vq import ResidualQuantizer
from lightning_omni.pretrained import Pretrained
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer


class Fixed(ImageTokenizer):
    """Codes are the patch's mean brightness; pictures come back with an error of a known size."""

    def __init__(self, error):
        super().__init__(16, 4, 8, [1, 1], [1, 1], [1, 1], [1, 1], groups=4, stem=4)
        self.error = error

    def encode(self, images):
        self.seen = images
        patches = images.mean(1).unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).flatten(1)
        return ((patches + 1) * 7).round().long()

    def decode(self, codes, *, rows):
        return self.seen + self.error


def test_psnr_of_a_constant_error_is_exact():
    pictures = [Image.new("RGB", (16, 16), (100, 100, 100))] * 3
    scores = score_image_codec(Fixed(0.02), pictures, seed=0)
    assert scores.psnr_db.value == pytest.approx(20 * math.log10(2 / 0.02), abs=1e-3)
    assert scores.psnr_db.low == pytest.approx(scores.psnr_db.high)
    assert (scores.n, scores.usage, scores.flat_share) == (3, 1 / 16, 1.0)
    assert scores.flat_entropy_bits == 0
    assert scores.perplexity == pytest.approx(1)


def test_a_worse_codec_scores_worse():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))]
    good, bad = (score_image_codec(Fixed(e), pictures, seed=0) for e in (0.01, 0.2))
    assert good.psnr_db.value > bad.psnr_db.value
    assert good.flat_entropy_bits is None


def test_flat_patches_are_found_with_their_colour():
    image = torch.full((1, 3, 16, 16), -1.0)
    image[0, 0, :8, 8:] = 1.0
    image[0, 1, 12, 3] = 0.5
    color, is_flat = flat_patches(image, 8)
    assert is_flat.tolist() == [[True, True, False, True]]
    assert color[0, 1] == 255 * 65536


def test_conditional_entropy():
    given = torch.tensor([0, 0, 0, 0, 1, 1])
    assert conditional_entropy_bits(torch.tensor([5, 5, 5, 5, 6, 6]), given) == 0
    halves = torch.tensor([1, 2, 1, 2, 6, 6])
    assert conditional_entropy_bits(halves, given) == pytest.approx(4 / 6)


class Frames(Pretrained):
    """160 samples are one vector."""

    hop_length = 160

    def forward(self, wave):
        return wave.unflatten(1, (-1, 160))


class Back(Pretrained):
    def forward(self, latents):
        return latents.flatten(1), None


class CountingRecognizer:
    """Transcribes the first level as nothing, the second as the sentence."""

    def __init__(self, original):
        self.original = original

    def transcribe(self, wave, sample_rate):
        return "a red cat" if np.allclose(wave, self.original, atol=1e-2) else ""


class SilentOpinion:
    def overall(self, wave, sample_rate):
        return 3.0


def two_level_codec(wave):
    """A codec that is exact with both levels and off by half with one."""
    codec = SpeechTokenizer(Frames(), ResidualQuantizer(160, 2, 4), Back(), 16000, 1)
    frames = torch.from_numpy(wave).view(-1, 160)
    for book in codec.quantizer.codebooks:
        book.copy_(frames * 0.5)
    return codec.eval()


def test_every_level_is_scored_beside_the_original_recording():
    wave = np.repeat(np.array([0.1, -0.2, 0.4, -0.8], np.float32), 160)
    codec = two_level_codec(wave)
    recordings = [Recording(wave, "a red cat")] * 4
    scores = score_speech_codec(
        codec, recordings, recognizer=CountingRecognizer(wave), opinion=SilentOpinion(), seed=0
    )
    assert scores.ground_truth.wer.value == 0
    assert [level.tokens_per_second for level in scores.by_level] == [100, 200]
    assert scores.by_level[0].reconstruction.wer.value == 1
    assert scores.by_level[0].wer_increase.value == 1
    assert scores.n == 4


def test_no_pictures_and_no_words_are_refused():
    with pytest.raises(OmniError, match="no pictures"):
        score_image_codec(Fixed(0.1), [], seed=0)
    wave = np.zeros(640, np.float32)
    codec = two_level_codec(wave)
    scorers = {"recognizer": CountingRecognizer(wave), "opinion": SilentOpinion(), "seed": 0}
    with pytest.raises(OmniError, match="no recordings"):
        score_speech_codec(codec, [], **scorers)
    with pytest.raises(OmniError, match="no transcript"):
        score_speech_codec(codec, [Recording(wave, None)], **scorers)


def test_a_paired_difference_has_a_narrower_interval_than_two_numbers():
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 5, 200).astype(float)
    gap = bootstrap_difference((hard + 1).tolist(), hard.tolist(), [5.0] * 200, seed=0)
    assert gap.low == gap.high == gap.value == pytest.approx(0.2)
    assert mean_of_values([1.0, 3.0], seed=0).value == 2


def test_dnsmos_prefers_a_voice_to_noise():
    from data_prep.speech.espeak import close_espeak
    from data_prep.speech.synthesizers import Synthesizers

    voice = Synthesizers(None).synthesize(
        "the cat sat on the mat and looked at the moon", "espeak-en-us"
    )
    close_espeak()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    opinion = DNSMOS()
    assert 1 <= opinion.overall(noise, SAMPLE_RATE) < opinion.overall(voice, SAMPLE_RATE) <= 5
    with pytest.raises(OmniError, match="0 samples"):
        opinion.overall(noise[:0], SAMPLE_RATE)


@pytest.mark.xdist_group("workplace")
def test_the_verb_writes_both_tables(workplace):
    run = "runs/debug"
    args = [
        *("evaluate-tokenizers", "--data", "data/smoke", "--out", "out/tokenizers"),
        *("--splits", "[test_iid]", "--limit", "6", "--speech_limit", "2", "--seed", "1"),
        *("--image_tokenizer", f"{run}/image_tokenizer/export"),
        *("--speech_tokenizer", f"{run}/speech_tokenizer/export"),
    ]
    assert main(args) == 0
    results = json.loads((workplace / "out/tokenizers/tokenizers.json").read_text())
    assert results["image"]["test_iid"]["n"] == 6
    assert results["speech"]["test_iid"]["n"] == 2
    table = (workplace / "out/tokenizers/tokenizers.md").read_text()
    assert "PSNR" in table
    assert "DNSMOS" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--image_tokenizer", "null"], "nothing to evaluate"),
        (["--splits", "[test]"], "unknown split 'test'"),
        (["--limit", "0"], "wanted at least 1"),
        (["--image_tokenizer", "absent"], "no ImageTokenizer in 'absent'"),
    ],
)
def test_mistakes_are_one_line(change, message, capsys, tmp_path):
    args = {
        **{"--data": str(tmp_path), "--out": str(tmp_path / "o"), "--splits": "[test_iid]"},
        **{"--limit": "1", "--speech_limit": "1", "--seed": "0", "--image_tokenizer": "x"},
    }
    args |= {change[0]: change[1]}
    assert main(["evaluate-tokenizers", *(x for pair in args.items() for x in pair)]) == 2
    assert message in capsys.readouterr().err
