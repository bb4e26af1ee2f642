"""The tokenizers of the paper's scale, and that its stages take what they export."""

import json
from itertools import pairwise
from pathlib import Path

import torch

from lightning_omni.cli import build_cli, main
from lightning_omni.recipe import read_recipe
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech import SpeechTokenizer

PAPER = Path(__file__).parents[2] / "recipes/paper"
NAMES = ("image_tokenizer", "speech_tokenizer")


def tokenizer_of(name):
    with torch.device("meta"):
        cli = build_cli(["--config", str(PAPER / f"{name}.yaml")], run=False, with_trainer=False)
    return cli.model.tokenizer


def joint():
    return read_recipe(PAPER / "stage1.yaml")["data"]["init_args"]


def test_the_image_tokenizer_is_the_released_one():
    image = tokenizer_of("image_tokenizer")
    encoder, decoder = (
        sum(p.numel() for m in parts for p in m.parameters())
        for parts in ((image.encoder, image.quant_conv), (image.decoder, image.post_quant_conv))
    )
    assert (encoder, decoder) == (55_439_171, 39_947_833)
    assert image.columns**2 == 256


def test_the_stages_take_the_tokenizers_numbers():
    vocab, data = joint()["vocab"], read_recipe(PAPER / "image_tokenizer.yaml")["data"]
    image, speech = map(tokenizer_of, NAMES)
    assert {"image": image.num_codes, "speech": speech.num_codes} == {
        name: vocab[name] for name in ("image", "speech")
    }
    assert (speech.frame_rate, speech.num_codebooks, speech.hop_length) == (12.5, 1, 1280)
    assert data["init_args"]["image_size"] == image.image_size == 256
    assert (
        image.columns_for_size(joint()["request_image_size"]) == 32
    )  # as the release reads pictures


def test_every_recipe_of_the_chain_makes_what_the_next_one_reads():
    for name in NAMES:
        made = read_recipe(PAPER / f"{name}.yaml")["trainer"]["default_root_dir"]
        assert joint()[name] == f"{made}/export"
    stages = [read_recipe(PAPER / f"stage{n}.yaml") for n in (1, 2, 3)]
    for before, after in pairwise(stages):
        made = before["trainer"]["default_root_dir"]
        assert after["model"]["init_args"]["init_from"] == f"{made}/export"


ONE_DEVICE = [
    "--trainer.devices",
    "1",
    "--trainer.strategy",
    "auto",
    "--trainer.val_check_interval",
    "2",
    "--trainer.log_every_n_steps",
    "1",
    "--data.data",
    "data/smoke",
    "--data.batch_size",
    "2",
]
NARROW = {
    "image_tokenizer": {
        "model.tokenizer.channels": 4,
        "model.tokenizer.groups": 2,
        "model.tokenizer.encoder_blocks": [1, 1, 1, 1, 1],
        "model.tokenizer.decoder_blocks": [1, 1, 1, 1, 1],
        "model.perceptual.model": "resnet10t",
        "model.discriminator.channels": 4,
        "model.adversarial_start": 0,
    },
    "speech_tokenizer": {
        "model.tokenizer.encoder.num_filters": 2,
        "model.tokenizer.encoder.latent_dim": 8,
        "model.tokenizer.quantizer.dim": 8,
        "model.tokenizer.decoder.num_filters": 2,
        "model.tokenizer.decoder.latent_dim": 8,
        "model.discriminator.filters": 2,
        "model.discriminator.n_ffts": [512],
        "model.continuous_steps": 1,
        "model.kmeans_vectors": 8,
        "data.val_batches": 1,
    },
}


def fit_narrow(name):
    """Train a recipe for two updates of both optimizers, its network narrow."""
    changes = [
        x
        for key, value in NARROW[name].items()
        for x in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    recipe = str(PAPER / f"{name}.yaml")
    done = main(["fit", "--config", recipe, *ONE_DEVICE, "--trainer.max_steps", "4", *changes])
    assert done == 0
    return Path("runs/paper") / name / "export"


def test_a_narrow_image_tokenizer_trains_exports_and_encodes(workplace, beside):
    beside()
    export = ImageTokenizer.from_pretrained(fit_narrow("image_tokenizer"))
    codes = export.encode(torch.rand(2, 3, 256, 256) * 2 - 1)
    assert codes.shape == (2, 256)
    assert export.encode(torch.zeros(1, 3, 512, 512)).shape == (1, 1024)
    assert export.num_codes == joint()["vocab"]["image"]
    assert 0 <= int(codes.min()) <= int(codes.max()) < export.num_codes
    assert export.decode(codes, rows=16).shape == (2, 3, 256, 256)


def test_a_narrow_speech_tokenizer_trains_exports_and_encodes(workplace, beside):
    beside()
    export = SpeechTokenizer.from_pretrained(fit_narrow("speech_tokenizer"))
    codes = export.encode(torch.randn(2, 32_000) * 0.1, sample_rate=16_000)
    assert codes.shape == (2, 25)
    assert export.num_codes == joint()["vocab"]["speech"]
    assert 0 <= int(codes.min()) <= int(codes.max()) < export.num_codes
    assert export.decode(codes).shape == (2, 32_000)
