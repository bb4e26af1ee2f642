"""GLM-4-Voice's tokenizer and decoder open from folders as they are published."""

import json
import math
import re

import numpy as np
import published_speech
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.interop.glm4_voice import load_encoder, load_glm4_voice
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.nn.codec.whisper_vq import WhisperLogMel, WhisperVqEncoder
from lightning_omni.tokenizers.speech import SpeechCodec, SpeechTokenizer

RATE = 16_000
WINDOW = 30 * RATE


def noise(samples, seed=0, size=0.1):
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(seed)) * size


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Copies of both folders; the codebook is of the encoder's own frames, so that codes vary."""
    folder = tmp_path_factory.mktemp("published")
    weights = published_speech.write_tokenizer(folder / "tokenizer")
    published_speech.write_decoder(folder / "decoder")
    frames = load_encoder(folder / "tokenizer").encode_frames(noise(48 * 1280))[0]
    weights["codebook.weight"] = frames.detach().contiguous()
    save_file(weights, folder / "tokenizer" / "model.safetensors")
    return folder


@pytest.fixture
def copies(folders, tmp_path):
    for name in ("tokenizer", "decoder"):
        (tmp_path / name).mkdir()
        for file in (folders / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer(folders):
    return load_glm4_voice(folders / "tokenizer", folders / "decoder")


def encode(tokenizer, wave):
    return tokenizer.encode(wave, sample_rate=RATE)


def test_spectra_are_whisper_s():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    for samples in (1280, 5 * 1280, 16000 * 2):
        wave = noise(samples, size=0.3)
        expected = extractor(
            wave[0].numpy(), sampling_rate=RATE, padding="longest", return_tensors="pt"
        )
        ours = WhisperLogMel(128)(wave)
        np.testing.assert_allclose(ours, expected.input_features, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 1279, 1280, 3000, 70_000])
def test_codes_are_those_of_whisper_s_layers_under_the_published_mask(folders, samples):
    """Convolutions with zeros on the left, layers of `transformers`, mean of four, nearest code."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

    weights = load_file(folders / "tokenizer" / "model.safetensors")
    encoder = load_encoder(folders / "tokenizer")
    wave = noise(samples)
    spectra = encoder.log_mel(F.pad(wave, (0, -samples % 1280)))
    x = F.pad(spectra, (2, 0))
    x = F.gelu(F.conv1d(x, weights["conv1.weight"], weights["conv1.bias"]))
    x = F.pad(x, (2, 0))
    x = F.gelu(F.conv1d(x, weights["conv2.weight"], weights["conv2.bias"], stride=2))
    x = x.transpose(1, 2) + weights["embed_positions.weight"][: x.shape[2]]
    size = x.shape[1]
    sizes = [min(200, size - start) for start in range(0, size, 200)]
    blocks = torch.block_diag(*(torch.ones(length, length) for length in sizes)).bool()
    is_sound = (torch.arange(samples + -samples % 1280) < samples)[::320]
    allowed = (torch.ones(size, size).tril().bool() | blocks) & is_sound
    mask = (1.0 - allowed.float()) * torch.finfo(torch.float32).min
    config = transformers.WhisperConfig(
        d_model=16, encoder_attention_heads=4, encoder_ffn_dim=24, attn_implementation="eager"
    )
    for n in range(2):
        layer = WhisperEncoderLayer(config).eval()
        own = {k.removeprefix(f"layers.{n}."): v for k, v in weights.items() if f"layers.{n}." in k}
        layer.load_state_dict(own)
        x = layer(x, mask[None, None])
        x = x[0] if isinstance(x, tuple) else x
    pooled = x.unflatten(1, (-1, 4)).mean(2)
    torch.testing.assert_close(encoder.encode_frames(wave), pooled, atol=2e-5, rtol=1e-4)
    expected = torch.cdist(pooled, weights["codebook.weight"][None]).argmin(-1)
    assert torch.equal(encoder(wave), expected)


@pytest.mark.parametrize("samples", [1, 1280, 1281, 15 * 1280, 2 * RATE + 7])
def test_a_code_stands_for_1280_samples_begun(tokenizer, samples):
    codes = encode(tokenizer, noise(samples))
    assert codes.shape == (1, -(-samples // 1280))
    assert 0 <= int(codes.min()) <= int(codes.max()) < tokenizer.num_codes == 48
    assert tokenizer.frame_rate == 12.5
    wave = tokenizer.decode(codes)
    assert wave.shape == (1, 1764 * codes.shape[1])
    assert wave.shape[1] / tokenizer.decoded_rate == codes.shape[1] / 12.5
    assert float(wave.abs().max()) <= 0.99
    assert float(wave.std()) > 1e-3


def test_windows_of_30_s_know_nothing_of_each_other(tokenizer):
    wave = noise(WINDOW + 3 * 1280 + 5)
    codes = encode(tokenizer, wave)
    assert codes.shape[1] == 375 + 4
    assert len(codes.unique()) > 20
    assert torch.equal(codes[:, :375], encode(tokenizer, wave[:, :WINDOW]))
    assert torch.equal(codes[:, 375:], encode(tokenizer, wave[:, WINDOW:]))
    assert encode(tokenizer, wave[:, :0]).shape == tokenizer.decode(codes[:, :0]).shape == (1, 0)


def test_a_block_of_four_seconds_does_not_depend_on_what_comes_later(folders):
    encoder = load_encoder(folders / "tokenizer")
    wave = noise(6 * RATE)
    later = wave.clone()
    later[:, 4 * RATE :] = noise(2 * RATE, seed=1, size=0.05)  # the loudest stays in the block
    one, two = encoder.encode_frames(wave), encoder.encode_frames(later)
    torch.testing.assert_close(one[:, :50], two[:, :50], atol=1e-6, rtol=0)
    assert not torch.allclose(one[:, 50:], two[:, 50:], atol=1e-2)


def test_other_rates_are_refused(tokenizer):
    with pytest.raises(OmniError, match="works at 16000 Hz but got 22050 Hz; read the file with"):
        tokenizer.encode(noise(1000), sample_rate=22_050)


def test_decoding_is_the_same_alone_in_a_batch_and_later_and_draws_nothing_from_torch(tokenizer):
    codes = torch.arange(32).view(2, 16)
    before = torch.get_rng_state()
    both = tokenizer.decode(codes)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(both[1:], tokenizer.decode(codes[1:]), atol=1e-6, rtol=1e-4)
    assert torch.equal(both, tokenizer.decode(codes))
    assert float((both[0] - both[1]).abs().max()) > 5e-5  # a random vocoder adds little to noise


def test_codes_and_speech_are_the_same_under_autocast(tokenizer):
    wave = noise(RATE)
    codes = encode(tokenizer, wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode(tokenizer, wave), codes)
        assert torch.equal(
            encode(tokenizer, wave.bfloat16().float()), encode(tokenizer, wave.bfloat16())
        )
        spoken = tokenizer.decode(codes)
    assert spoken.dtype == torch.float32
    assert torch.equal(spoken, tokenizer.decode(codes))


def test_it_is_frozen_and_its_codebook_vectors_are_the_published_ones(tokenizer, folders):
    assert not tokenizer.training
    assert not any(p.requires_grad for p in tokenizer.parameters())
    weights = load_file(folders / "tokenizer" / "model.safetensors")
    assert torch.equal(tokenizer.code_features, weights["codebook.weight"])
    assert not encode(tokenizer, noise(3000).requires_grad_()).requires_grad


def test_the_encoder_at_full_size_has_the_weights_of_the_published_file():
    with MetaInit():
        encoder = WhisperVqEncoder(1280, 16, 20, 5120, 128, 1500, 200, 4, 16_384)
    count = sum(p.numel() for p in encoder.parameters())
    left_out = 375 * 1280 + 16_384 * (1280 + 1)  # other positions, averages of the codebook
    assert count == 343_119_360
    assert round((count + left_out) * 4 / 1e7) == 146  # 1.46 GB


def import_args(copies, *more):
    folders = ["--input", str(copies / "tokenizer"), "--output", str(copies / "ours")]
    return ["import", "--from", "glm-4-voice", *folders, *more]


def test_the_import_is_the_tokenizer_of_a_recipe_and_computes_the_same(copies, tokenizer):
    assert main(import_args(copies, "--decoder", str(copies / "decoder"))) == 0
    ours = SpeechCodec.from_pretrained(copies / "ours")
    wave = noise(2 * RATE)
    codes = encode(ours, wave)
    assert torch.equal(codes, encode(tokenizer, wave))
    assert torch.equal(ours.decode(codes), tokenizer.decode(codes))
    assert not any(p.requires_grad for p in ours.parameters())
    config = json.loads((copies / "ours" / "config.json").read_text())
    assert config["class_path"] == "lightning_omni.tokenizers.glm4_voice.Glm4VoiceTokenizer"
    with pytest.raises(OmniError, match="holds a Glm4VoiceTokenizer, wanted a SpeechTokenizer"):
        SpeechTokenizer.from_pretrained(copies / "ours")


def test_without_a_decoder_it_encodes_and_says_what_is_missing(copies, caplog):
    assert main(import_args(copies)) == 0
    assert "can encode speech but not decode it" in caplog.text
    ours = SpeechCodec.from_pretrained(copies / "ours")
    codes = encode(ours, noise(3000))
    with pytest.raises(OmniError, match="has no decoder, so nothing can be spoken; import it aga"):
        ours.decode(codes)


def test_names_of_a_whole_training_checkpoint_are_understood(copies):
    file = copies / "tokenizer" / "model.safetensors"
    weights = load_file(file)
    more = {"layer_norm.weight": torch.ones(16), "layers.2.fc1.weight": torch.ones(24, 16)}
    save_file({f"model.encoder.{k}": v for k, v in {**weights, **more}.items()}, file)
    assert torch.equal(load_encoder(copies / "tokenizer").conv1.weight, weights["conv1.weight"])


def rewrite(name, **changes):
    def write(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return write


def replace(old, new):
    def write(folder):
        file = folder / "config.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return write


def repickle(name, change):
    def write(folder):
        weights = torch.load(folder / name, weights_only=True)
        change(weights)
        torch.save(weights, folder / name)

    return write


def resave(name, value):
    def write(folder):
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights[name].view(-1)[-1] = value
        save_file(weights, file)

    return write


def truncate(name):
    def write(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return write


def point(name):
    return lambda folder: (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("part", "damage", "words"),
    [
        ("tokenizer", lambda f: (f / "config.json").unlink(), "has no config.json, of config.js"),
        ("tokenizer", lambda f: (f / "model.safetensors").unlink(), "no safetensors in"),
        ("tokenizer", truncate("model.safetensors"), "is damaged"),
        ("tokenizer", point("model.safetensors"), "is a pointer of Git LFS of 43 bytes"),
        ("tokenizer", rewrite("config.json", pooling_type="max"), "has pooling_type 'max'"),
        ("tokenizer", rewrite("config.json", pooling_position=1), "has pooling_position 1"),
        ("tokenizer", rewrite("config.json", d_model=32), "of another shape"),
        ("tokenizer", rewrite("config.json", d_model=None), "has d_model None, wanted an"),
        ("tokenizer", rewrite("preprocessor_config.json", n_fft=512), "has n_fft 512"),
        ("decoder", lambda f: (f / "hift.pt").unlink(), "has no hift.pt, of config.yaml, flow.pt"),
        ("decoder", truncate("flow.pt"), "flow.pt' is damaged or was not downloaded to its end"),
        ("decoder", point("hift.pt"), "hift.pt' is a pointer of Git LFS"),
        ("decoder", repickle("flow.pt", lambda w: w.popitem()), "1 missing .decoder.estimator.f"),
        ("decoder", repickle("hift.pt", lambda w: w.update(a=torch.ones(1))), "1 unexpected .a."),
        (
            "decoder",
            replace("flow.flow.Masked", "evil.flow.M"),
            "builds 'flow' from new:cosyvoice.e",
        ),
        ("decoder", replace("vocab_size: 48", "vocab_size: 4096"), "has flow.vocab_size 4096, but"),
        ("decoder", replace("frame_rate: 12.5", "frame_rate: 50"), "has flow.input_frame_rate 50"),
        ("decoder", replace("[8, 8]", "[8, 5, 3]"), r"has hift.upsample_rates \[8, 5, 3\], but"),
        ("decoder", replace("'euler'", "'midpoint'"), "has cfm_params.solver 'midpoint', but"),
        ("tokenizer", rewrite("config.json", encoder_attention_heads=5), "d_model 16, wanted a mu"),
        ("tokenizer", rewrite("config.json", pooling_kernel_size=7), "positions 1500, wanted a mu"),
        ("tokenizer", resave("codebook.weight", math.nan), "codebook.weight in .* not finite"),
        ("decoder", replace("block_size: 3", "block_size: 'x'"), "encoder.block_size 'x', wanted"),
        ("decoder", replace("block_size: 3", "block_size:"), "encoder.block_size None, wanted an"),
        ("decoder", replace("block_size: 3", "block_size: 0"), "encoder.block_size 0, wanted an"),
        ("decoder", replace("block_size: 3", "block_size: 2.5"), "encoder.block_size 2.5, wanted"),
        ("decoder", replace("[16, 24]", "16"), "has estimator.channels 16, wanted a list of 1 to"),
        ("decoder", replace("[16, 24]", "[]"), r"has estimator.channels \[\], wanted a list of 1"),
        ("decoder", replace("[16, 24]", "['x']"), r"channels\[0\] 'x', wanted an integer"),
        ("decoder", replace("[16, 24]", "[-8]"), r"channels\[0\] -8, wanted an integer"),
        ("decoder", replace("[16, 24]", "[16, True]"), r"channels\[1\] True, wanted an integer"),
        (
            "decoder",
            replace("[16, 24]", "[100, 100]"),
            r"channels\[0\] 100, wanted a multiple of 8",
        ),
        (
            "decoder",
            replace("cfg_rate: 0.7", "cfg_rate: .nan"),
            "cfm_params.inference_cfg_rate nan",
        ),
        (
            "decoder",
            replace("cfg_rate: 0.7", "cfg_rate: yes"),
            "cfm_params.inference_cfg_rate True",
        ),
        ("decoder", replace("cfg_rate: 0.7", "cfg_rate: .inf"), "rate inf, wanted a number from 0"),
        (
            "decoder",
            repickle("hift.pt", lambda w: w["conv_pre.weight_v"][0].zero_()),
            "conv_pre.weight in .*hift.pt' holds values that are not finite",
        ),
        ("decoder", lambda f: (f / "flow.pt").write_bytes(b""), "flow.pt' is empty; download it"),
        ("decoder", replace("<sample_rate>", "<none>"), "has hift.sampling_rate None, but"),
    ],
)
def test_what_is_no_copy_of_the_published_folders_is_refused(copies, capsys, part, damage, words):
    damage(copies / part)
    assert main(import_args(copies, "--decoder", str(copies / "decoder"))) == 2
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert not (copies / "ours").exists()


def test_settings_name_code_that_is_not_run(copies, capsys):
    with (copies / "decoder" / "config.yaml").open("a") as file:
        file.write("bad: !apply:builtins.print ['it ran']\n")
    assert main(import_args(copies, "--decoder", str(copies / "decoder"))) == 0
    assert "it ran" not in capsys.readouterr().out


def test_a_decoder_belongs_to_glm_4_voice_alone(copies, capsys):
    args = ["--input", str(copies), "--output", str(copies / "o"), "--decoder", str(copies)]
    assert main(["import", "--from", "dream", *args]) == 2
    assert "--decoder is a part of glm-4-voice, but --from is dream" in capsys.readouterr().err
