import pytest
import torch
from safetensors.torch import save_file

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.interop import load_image_tokenizer
from lightning_omni.interop.magvitv2 import build_magvitv2, native_name, published_name
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.pretrained import FOLDER


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
        (lambda t: t.decode(torch.zeros(1, 63, dtype=torch.long)), "63 codes do not fill a square"),
        (
            lambda t: t.decode(torch.zeros(1, 6, dtype=torch.long), rows=4),
            "do not fill a grid of 4 rows",
        ),
        (
            lambda t: t.decode(torch.zeros(1, 6, dtype=torch.long), rows=-2),
            "do not fill a grid of -2 rows",
        ),
        (
            lambda t: t.decode(torch.full((1, 4), 1 << 20)),
            "reach from 1048576 to 1048576, wanted 0",
        ),
        (lambda t: t.decode(torch.full((1, 4), -1)), "codes reach from -1 to -1, wanted 0"),
        (lambda t: t.decode(torch.zeros(4, dtype=torch.long)), "codes are torch.int64 of shape"),
        (lambda t: t.encode(torch.zeros(3, 64, 64)), r"shape \(3, 64, 64\), wanted floats"),
        (lambda t: t.encode(torch.zeros(1, 3, 64, 64).byte()), "picture is torch.uint8"),
    ],
)
def test_what_does_not_fit_is_named(call, expected):
    with pytest.raises(OmniError, match=expected):
        call(load_image_tokenizer(FOLDER / "image_tokenizer"))


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(OmniError, match="do not fit MAGVIT-v2"):
        load_image_tokenizer(FOLDER / "speech_tokenizer" / "model.safetensors")


def test_a_config_that_is_no_text_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(OmniError, match="is not JSON"):
        load_image_tokenizer(tmp_path)


PUBLISHED = "encoder.down.2.downsample.conv.bias"


@pytest.fixture(scope="module")
def weights():
    """Zeros of the published network's shapes, by the published names."""
    with MetaInit():
        network = build_magvitv2()
    return {published_name(n): torch.zeros(v.shape) for n, v in network.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(PUBLISHED), f"1 missing ({PUBLISHED})"),
        (lambda s: s.pop("decoder.up.3.block.1.conv1.weight"), "(decoder.up.3.block.1.conv1."),
        (lambda s: s.update(**{"encoder.down.9.downsample.conv.bias": torch.ones(1)}), "1 unexp"),
        (
            lambda s: s.update(**{native_name(PUBLISHED): s.pop(PUBLISHED)}),
            f"({native_name(PUBLISHED)})",
        ),
        (lambda s: s.update(**{PUBLISHED: torch.ones(3)}), "is (3,), wanted (256,)"),
    ],
)
def test_a_published_weight_that_does_not_fit_is_named_as_it_is_published(
    tmp_path, capsys, weights, change, words
):
    state = dict(weights)
    change(state)
    (tmp_path / "in").mkdir()
    save_file(state, tmp_path / "in" / "model.safetensors")
    with pytest.raises(OmniError) as error:
        load_image_tokenizer(tmp_path / "in")
    assert words in str(error.value)
    args = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(["import", "--from", "magvitv2", *args]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert words in told
    assert not (tmp_path / "out").exists()
