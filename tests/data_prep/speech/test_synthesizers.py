"""Speech: what synthesizers deliver is trimmed, of one loudness, and replaceable."""

import numpy as np
import pytest

from data_prep.sources import SourceError, Sources
from data_prep.speech import synthesizers
from data_prep.speech.clip_cache import ClipCache
from data_prep.speech.espeak import close_espeak
from data_prep.speech.recordings import normalize_recording
from data_prep.speech.synthesizers import Synthesizers
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE


@pytest.fixture(autouse=True, scope="module")
def worker_ends():
    yield
    close_espeak()


RNG = np.random.default_rng(0)


def noise(seconds, rate=SAMPLE_RATE):
    return RNG.normal(0, 0.2, round(seconds * rate)).astype(np.float32)


def test_silence_is_cut_and_loudness_set():
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    wave = normalize_recording(np.concatenate([quiet, 0.1 * noise(0.5), quiet]), SAMPLE_RATE)
    assert 0.5 <= len(wave) / SAMPLE_RATE <= 0.5 + 2 * 0.07
    assert np.sqrt(np.square(wave).mean()) == pytest.approx(0.08, rel=0.01)


def test_a_loud_click_does_not_clip():
    wave = 0.01 * noise(0.5)
    wave[4000] = 0.9
    assert abs(normalize_recording(wave, SAMPLE_RATE)).max() <= 0.951


def test_other_rates_and_stereo_become_16_khz_mono():
    wave = normalize_recording(np.stack([noise(0.5, 22050)] * 2, axis=1), 22050)
    assert wave.ndim == 1
    assert len(wave) / SAMPLE_RATE == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("wave", [np.zeros(16000, np.float32), np.zeros(0, np.float32)])
def test_silence_is_refused(wave):
    with pytest.raises(OmniError, match="empty or silent"):
        normalize_recording(wave, SAMPLE_RATE)


def test_without_flite_each_of_its_voices_has_a_stand_in_of_its_own(tmp_path, monkeypatch):
    def absent(sources):
        raise SourceError("no flite here")

    monkeypatch.setattr(synthesizers, "find_flite", absent)
    sources = Sources(tmp_path, online=False)
    wanted = {"flite-rms", "flite-slt", "flite-kal16", "flite-awb"}
    _, chosen = Synthesizers.find_engines(wanted, sources)
    assert set(chosen) == wanted
    assert len(set(chosen.values())) == len(wanted)
    assert all(name.startswith("espeak-") for name in chosen.values())
    assert sources.provenance.fallbacks == ["espeak-ng speaks for flite: no flite here"]


@pytest.mark.parametrize("voice", sorted(synthesizers.FALLBACK_VOICES.values()))
def test_every_stand_in_speaks_the_same_bytes_twice(voice):
    speaker = Synthesizers(None)
    first, second = (speaker.synthesize("a red cat", voice) for _ in range(2))
    assert np.array_equal(first, second)
    assert 0.3 < len(first) / SAMPLE_RATE < 3


@pytest.mark.parametrize("voice", ["espeak-en-us-f2", "espeak-en-us-f3", "espeak-en-us-f5"])
def test_a_voice_with_random_breath_speaks_the_same_bytes_in_every_worker(voice):
    waves = []
    for _ in range(2):
        close_espeak()
        waves.append(Synthesizers(None).synthesize("a red cat", voice))
    assert np.array_equal(*waves)


def test_an_unknown_voice_is_named():
    with pytest.raises(OmniError, match="no synthesizer for voice 'festival-kal'"):
        Synthesizers(None).synthesize("hello", "festival-kal")


def test_a_clip_is_spoken_once_and_found_again(tmp_path):
    class Counting(Synthesizers):
        said = 0

        def synthesize(self, text, voice):
            type(self).said += 1
            return noise(0.4)

    for _ in range(2):
        cache = ClipCache(Counting(None), tmp_path)
        clips = [
            cache.request_clip("a red cat", "espeak-en"),
            cache.request_clip("a red cat", "espeak-en"),
        ]
        cache.synthesize_requested()
        assert clips[0] is clips[1]
        assert clips[0].duration_s() == pytest.approx(0.4, abs=0.03)
    assert Counting.said == 1
