import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.image import ImageTokenizer


def tiny(**changes) -> ImageTokenizer:
    torch.manual_seed(0)
    sizes = {
        "image_size": 32,
        "bits": 6,
        "channels": 8,
        "encoder_multipliers": [1, 2],
        "encoder_blocks": [1, 1],
        "decoder_multipliers": [1, 2],
        "decoder_blocks": [1, 1],
        "groups": 4,
        "stem": 4,
    }
    return ImageTokenizer(**{**sizes, **changes}).eval()


@pytest.mark.parametrize(("stem", "grid"), [(1, 16), (2, 8), (4, 4)])
def test_codes_lie_on_a_grid_and_decode_to_the_picture_s_size(stem, grid, rng):
    tokenizer = tiny(stem=stem)
    images = torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, grid * grid)
    assert codes.min() >= 0
    assert codes.max() < tokenizer.num_codes == 64
    rebuilt = tokenizer.decode(codes, rows=grid)
    assert rebuilt.shape == images.shape
    assert rebuilt.abs().max() <= 1


def test_decoding_codes_is_decoding_the_quantized_latents(rng):
    tokenizer = tiny()
    quantized = tokenizer.quantize(torch.rand(1, 3, 32, 32, generator=rng))
    direct = tokenizer.reconstruct(quantized.latents).clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(quantized.codes.flatten(1), rows=4), direct)


def test_a_picture_alone_and_in_a_batch_gets_the_same_codes(rng):
    tokenizer = tiny()
    images = torch.rand(3, 3, 32, 32, generator=rng)
    together = tokenizer.encode(images)
    assert all(torch.equal(tokenizer.encode(images[i : i + 1])[0], together[i]) for i in range(3))


def test_the_full_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        full = ImageTokenizer(
            256, 13, 128, [1, 2, 2, 4, 4], [4, 3, 4, 3, 4], [1, 1, 2, 2, 4], [4, 4, 3, 4, 3]
        )

    def count(*parts):
        return sum(p.numel() for part in parts for p in part.parameters())

    assert count(full.encoder, full.quant_conv) == 55_439_171
    assert count(full.decoder, full.post_quant_conv) == 39_947_833
    assert full.downsample_factor == 16


def test_a_saved_tokenizer_comes_back_with_the_same_codes(tmp_path, rng):
    tokenizer = tiny()
    tokenizer.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 32, 32, generator=rng)
    again = ImageTokenizer.from_pretrained(tmp_path)
    assert torch.equal(again.encode(images), tokenizer.encode(images))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(OmniError, match=r"config\.json is missing"):
        ImageTokenizer.from_pretrained(tmp_path)
