"""Any module may be the encoder, and what it returns is checked."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.speech_features import LfrFilterBank, SpeechFeatureEncoder

WAVE = torch.randn(8000, generator=torch.Generator().manual_seed(0)).mul(0.1)


class WithQueries(nn.Module):
    """As the release's encoder: some frames of its own before those it hencoders, and dropout."""

    def __init__(self, size=512, queries=4):
        super().__init__()
        torch.manual_seed(0)
        self.queries = nn.Parameter(torch.randn(1, queries, 560))
        self.body = nn.Sequential(nn.Linear(560, size), nn.Dropout(0.5))

    def forward(self, frames):
        return self.body(torch.cat((self.queries, frames), 1))


def test_identity_hencoders_the_frames_themselves():
    features = SpeechFeatureEncoder(nn.Identity()).encode(WAVE, name="it")
    assert features.dtype == np.float16
    frames = LfrFilterBank()(WAVE[None])[0]
    np.testing.assert_array_equal(features, frames.half().numpy())


def test_an_encoder_decides_how_many_frames_and_how_wide_and_is_frozen():
    encoder = SpeechFeatureEncoder(WithQueries())
    features = encoder.encode(WAVE, name="it")
    assert features.shape == (4 + 8, 512)
    np.testing.assert_array_equal(features, encoder.encode(WAVE, name="it"))
    assert not any(p.requires_grad for p in encoder.parameters())


class Gives(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, frames):
        return self.value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(3, 512), r"into \(3, 512\), wanted"),
        (torch.zeros(2, 3, 512), r"into \(2, 3, 512\), wanted"),
        ((torch.zeros(1, 3, 512), 3), "into tuple, wanted"),
        (torch.zeros(1, 0, 512), "0 frames that are empty"),
        (torch.full((1, 3, 8), 1e6), "not within float16"),
        (torch.full((1, 3, 8), float("nan")), "not within float16"),
    ],
)
def test_an_encoder_that_gives_something_else_is_named(value, words):
    with pytest.raises(OmniError, match=f"speech encoder Gives .*{words}"):
        SpeechFeatureEncoder(Gives(value)).encode(WAVE, name="it")


def am_mvn(path, size=560):
    rng = np.random.default_rng(0)
    shift, scale = rng.normal(size=size), rng.uniform(0.1, 1, size=size)
    lines = ["<Nnet>", f"<Splice> {size} {size}", "[ 0 ]"]
    for name, values in (("AddShift", shift), ("Rescale", scale)):
        numbers = " ".join(f"{v:.6f}" for v in values)
        lines += [f"<{name}> {size} {size}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    path.write_text("\n".join([*lines, "</Nnet>"]) + "\n")
    return shift, scale


def test_frames_are_shifted_and_scaled_as_the_file_says(tmp_path):
    shift, scale = am_mvn(tmp_path / "am.mvn")
    features = SpeechFeatureEncoder(nn.Identity(), str(tmp_path / "am.mvn")).encode(WAVE, name="it")
    frames = LfrFilterBank()(WAVE[None])[0].numpy()
    np.testing.assert_allclose(features, (frames + shift) * scale, atol=2e-2)


@pytest.mark.parametrize(
    ("content", "words"),
    [("nothing", "holds nothing, wanted"), (None, "cannot read cmvn"), ("few", "'AddShift': 3")],
)
def test_a_file_without_a_mean_and_a_scale_is_refused(tmp_path, content, words):
    path = tmp_path / "am.mvn"
    if content == "few":
        am_mvn(path, size=3)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(OmniError, match=words):
        SpeechFeatureEncoder(nn.Identity(), str(path))


def test_a_fingerprint_tells_weights_structure_and_normalisation_apart(tmp_path):
    am_mvn(tmp_path / "am.mvn")
    other = WithQueries()
    with torch.no_grad():
        other.queries[0, 0, 0] += 1e-3
    encoders = [
        SpeechFeatureEncoder(nn.Identity()),
        SpeechFeatureEncoder(nn.Identity(), str(tmp_path / "am.mvn")),
        SpeechFeatureEncoder(WithQueries()),
        SpeechFeatureEncoder(other),
        SpeechFeatureEncoder(WithQueries(queries=3)),
    ]
    prints = [one.fingerprint() for one in encoders]
    assert len(set(prints)) == len(prints)
    assert SpeechFeatureEncoder(WithQueries()).fingerprint() == prints[2]
