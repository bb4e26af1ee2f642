"""The published speech codec, in our tokenizer, at each of its rates."""

import warnings

import pytest
import torch
from encodec import EncodecModel
from safetensors.torch import save_file

from lightning_omni.cli import main
from lightning_omni.tokenizers.speech import SpeechTokenizer

RATES = {1.5: 2, 3: 4, 6: 8, 12: 16, 24: 32}


@pytest.fixture(scope="module")
def theirs():
    """The package's own model with random weights, and codebooks of the size of its latents."""
    torch.manual_seed(0)
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    with torch.no_grad():
        latents = model.encoder(torch.randn(1, 1, 9600) * 0.3)[0]
        spread = float(latents.std(1).mean())
        for level, layer in enumerate(model.quantizer.vq.layers):
            layer._codebook.embed.normal_(std=spread * 0.8**level)
            layer._codebook.inited.fill_(1)
        model.quantizer.vq.layers[0]._codebook.embed += latents.mean(1)
    return model


@pytest.fixture(scope="module")
def published(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("rate", RATES)
def test_codes_and_waveform_are_those_of_the_package(theirs, published, tmp_path, rng, rate):
    args = ["--input", str(published), "--output", str(tmp_path / "ours"), "--kbps", str(rate)]
    assert main(["import", "--from", "encodec", *args]) == 0
    ours = SpeechTokenizer.from_pretrained(tmp_path / "ours")
    assert ours.num_codebooks == RATES[rate]
    theirs.set_target_bandwidth(rate)
    for samples in (2 * 320, 1000, 5 * 320 + 1):
        wave = torch.randn(2, samples, generator=rng) * 0.3
        frames = theirs.encode(wave[:, None])
        expected = frames[0][0].transpose(1, 2)
        assert len(expected.unique()) > RATES[rate]
        codes = ours.encode(wave, sample_rate=24_000).view_as(expected)
        assert torch.equal(codes, expected + torch.arange(RATES[rate]) * 1024)
        decoded = theirs.decode(frames)[:, 0]
        assert torch.equal(ours.decode(codes.flatten(1)), decoded.clamp(-1, 1))
        assert decoded.std() > 1e-4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--from", "encodec", "--kbps", "7"], "kbps is 7, wanted one of EnCodec's rates: 1.5, 3,"),
        (["--from", "dream", "--kbps", "6"], "--kbps is a rate of encodec, but --from is dream"),
    ],
)
def test_a_rate_that_is_none_is_refused(published, tmp_path, capsys, more, words):
    folders = ["--input", str(published), "--output", str(tmp_path / "ours")]
    assert main(["import", *more, *folders]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_the_model_for_48_khz_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    state = EncodecModel.encodec_model_48khz(pretrained=False).state_dict()
    save_file(state, tmp_path / "in" / "model.safetensors")
    args = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "ours")]
    assert main(["import", "--from", "encodec", *args]) == 2
    assert "the weights do not fit" in capsys.readouterr().err


def test_building_the_network_warns_of_nothing_a_user_can_change(published, tmp_path):
    args = ["--input", str(published), "--output", str(tmp_path / "ours")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FutureWarning)
        assert main(["import", "--from", "encodec", *args]) == 0
        SpeechTokenizer.from_pretrained(tmp_path / "ours")
    assert not [w for w in told if "weight_norm" in str(w.message)]
