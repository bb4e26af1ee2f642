import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.nn.codec.mel_codec import MelFrameEncoder, SpectrumFrameDecoder
from lightning_omni.nn.codec.residual_vq import ResidualQuantizer
from lightning_omni.nn.codec.seanet import SEANetSpeechDecoder, SEANetSpeechEncoder
from lightning_omni.tokenizers.speech import SpeechTokenizer


def frames(num_codebooks=2) -> SpeechTokenizer:
    torch.manual_seed(0)
    encoder = MelFrameEncoder(16000, 16, [1, 1, 1], 8)
    decoder = SpectrumFrameDecoder(16000, 16, [1, 1, 1, 1], 8)
    return SpeechTokenizer(encoder, filled(8), decoder, 16000, num_codebooks).eval()


def seanet() -> SpeechTokenizer:
    torch.manual_seed(0)
    encoder = SEANetSpeechEncoder(2, [8, 5, 4, 4], 8, 1)
    decoder = SEANetSpeechDecoder(2, [8, 5, 4, 4], 8, 1)
    return SpeechTokenizer(encoder, filled(8), decoder, 16000, 2).eval()


def filled(dim) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(dim, 2, 16)
    rng = torch.Generator().manual_seed(1)
    quantizer.initialise_codebooks(torch.randn(200, dim, generator=rng), iterations=2, rng=rng)
    return quantizer


@pytest.mark.parametrize("make", [frames, seanet])
def test_frames_and_levels_of_codes_and_samples_agree(make, rng):
    tokenizer = make()
    wave = torch.randn(2, 1500, generator=rng) * 0.1
    codes = tokenizer.encode(wave, sample_rate=16000)
    assert codes.shape == (2, 3 * 2)
    level = codes.view(2, 3, 2) // tokenizer.codebook_size
    assert torch.equal(level, torch.arange(2).expand(2, 3, 2))
    assert tokenizer.decode(codes).shape == (2, 3 * 640)
    assert tokenizer.num_codes == tokenizer.code_features.shape[0] == 32
    assert tokenizer.frame_rate == 25


def test_fewer_levels_are_a_prefix_of_each_frame_s_codes(rng):
    wave = torch.randn(1, 6400, generator=rng) * 0.1
    both, one = frames(2), frames(1)
    coarse = both.encode(wave, sample_rate=16000)[:, ::2]
    assert torch.equal(one.encode(wave, sample_rate=16000), coarse)


def test_another_sample_rate_is_refused():
    with pytest.raises(OmniError, match="16000 Hz but got 24000 Hz"):
        frames().encode(torch.zeros(1, 640), sample_rate=24000)


def test_more_levels_than_the_quantizer_has_are_refused():
    with pytest.raises(OmniError, match="num_codebooks is 3"):
        frames(3)


@pytest.mark.parametrize("make", [frames, seanet])
def test_a_saved_tokenizer_comes_back_with_the_same_codes(make, tmp_path, rng):
    tokenizer, wave = make(), torch.randn(1, 3200, generator=rng) * 0.1
    tokenizer.save_pretrained(tmp_path)
    again = SpeechTokenizer.from_pretrained(tmp_path)
    codes = tokenizer.encode(wave, sample_rate=16000)
    assert torch.equal(again.encode(wave, sample_rate=16000), codes)
