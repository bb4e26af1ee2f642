import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.interop import load_image_tokenizer
from lightning_omni.shipped import FOLDER


def test_our_own_export_encodes_and_decodes():
    tokenizer = load_image_tokenizer(FOLDER / "image_tokenizer")
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    codes = tokenizer.encode(image)
    assert codes.shape == (2, 64)
    assert tokenizer.decode(codes).shape == image.shape
    assert tokenizer.decode(codes[:, :32], rows=4).shape == (2, 3, 32, 64)
    assert tokenizer.decode(codes[:, :6], rows=2).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda t: t.encode(torch.zeros(1, 3, 60, 64)), "60 x 64 pixels, wanted multiples of 8"),
        (lambda t: t.decode(torch.zeros(1, 63, dtype=torch.long)), "63 codes fill no square"),
    ],
)
def test_what_does_not_fit_is_named(call, expected):
    with pytest.raises(OmniError, match=expected):
        call(load_image_tokenizer(FOLDER / "image_tokenizer"))


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(OmniError, match="not the weights of MAGVIT-v2"):
        load_image_tokenizer(FOLDER / "speech_tokenizer" / "model.safetensors")
