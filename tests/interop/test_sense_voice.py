"""SenseVoice's encoder opens from a folder as it is published, and from no other."""

import numpy as np
import published_speech
import pytest
import torch
import yaml

from lightning_omni.errors import OmniError
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.interop.sense_voice import QueryEncoder, SenseVoice
from lightning_omni.nn.codec.sanm import SanmEncoder
from lightning_omni.tokenizers.speech_features import LfrFilterBank

WAVE = torch.randn(16000, generator=torch.Generator().manual_seed(0)).mul(0.1)


@pytest.fixture
def folder(tmp_path):
    published_speech.write_sense_voice(tmp_path / "sense")
    return tmp_path / "sense"


def normalize(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def project(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attend(x, weights, name, num_heads):
    """Attention head by head, and the memory of near values frame by frame."""
    query, key, value = np.split(project(x, weights, f"{name}.linear_q_k_v"), 3, axis=-1)
    mixed = []
    for q, k, v in zip(*(np.split(p, num_heads, -1) for p in (query, key, value)), strict=True):
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        mixed.append(scores / scores.sum(1, keepdims=True) @ v)
    filters = weights[f"{name}.fsmn_block.weight"][:, 0]
    reach = filters.shape[1] // 2
    memory = value.copy()
    for i in range(len(x)):
        for j in range(max(0, i - reach), min(len(x), i + reach + 1)):
            memory[i] += filters[:, j - i + reach] * value[j]
    return project(np.concatenate(mixed, -1), weights, f"{name}.linear_out") + memory


def by_the_book(frames, weights, conf):
    """Features of normalised frames from the published weights, in float64."""
    weights = {name: value.double().numpy() for name, value in weights.items()}
    x = np.concatenate((weights["embed.weight"][[0, 1, 2, 15]], frames.astype(np.float64)))
    x = x * np.sqrt(conf["output_size"])
    rates = 10_000.0 ** (-np.arange(280) / 279)
    angles = np.arange(1, len(x) + 1)[:, None] * rates
    x = x + np.concatenate((np.sin(angles), np.cos(angles)), -1)
    names = ["encoders0.0", *(f"encoders.{n}" for n in range(conf["num_blocks"] - 1))]
    names += [None, *(f"tp_encoders.{n}" for n in range(conf["tp_blocks"]))]
    for name in names:
        if name is None:
            x = normalize(x, weights, "encoder.after_norm")
            continue
        layer = f"encoder.{name}"
        mixed = attend(normalize(x, weights, f"{layer}.norm1"), weights, f"{layer}.self_attn", 4)
        x = mixed if x.shape != mixed.shape else x + mixed
        inner = project(
            normalize(x, weights, f"{layer}.norm2"), weights, f"{layer}.feed_forward.w_1"
        )
        x = x + project(np.maximum(inner, 0), weights, f"{layer}.feed_forward.w_2")
    return normalize(x, weights, "encoder.tp_norm")


def test_features_are_those_of_the_published_formulas(folder):
    encoder = SenseVoice(str(folder))
    features = encoder.encode(WAVE, name="it")
    frames = (LfrFilterBank()(WAVE[None])[0].numpy() - 8) * 0.2
    weights = torch.load(folder / "model.pt", weights_only=True)
    expected = by_the_book(frames, weights, published_speech.SENSE_VOICE)
    assert features.shape == expected.shape == (4 + 17, 16)
    np.testing.assert_allclose(features, expected, atol=5e-3)
    np.testing.assert_array_equal(features, encoder.encode(WAVE, name="it"))


def test_features_are_the_same_under_autocast(folder):
    encoder = SenseVoice(str(folder))
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder.encode(WAVE, name="it")
    np.testing.assert_array_equal(features, encoder.encode(WAVE, name="it"))


def test_it_is_frozen_and_its_fingerprint_is_of_its_weights(folder):
    one, two = SenseVoice(str(folder)), SenseVoice(str(folder))
    assert not one.encoder.training
    assert not any(p.requires_grad for p in one.parameters())
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        two.encoder.embed.weight[0, 0] += 1
    assert one.fingerprint() != two.fingerprint()


def test_at_full_size_the_weights_are_those_of_the_published_file():
    with MetaInit():
        network = QueryEncoder(SanmEncoder(560, 512, 4, 2048, 50, 20, 11), 560)
    head = 25_055 * 512 + 25_055
    count = sum(p.numel() for p in network.parameters())
    assert count == 221_145_952
    assert round((count + head) * 4 / 1e6) == 936  # megabytes of the file, which holds the head


def test_weights_inside_of_a_training_state_are_found(folder):
    weights = torch.load(folder / "model.pt", weights_only=True)
    torch.save({"state_dict": weights, "epoch": 3}, folder / "model.pt")
    SenseVoice(str(folder))


def cut(folder):
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def point(folder):
    oid = "sha256:" + "0" * 64
    pointer = f"version https://git-lfs.github.com/spec/v1\noid {oid}\nsize 936000000\n"
    (folder / "model.pt").write_text(pointer)


def change(**changes):
    def write(folder):
        weights = torch.load(folder / "model.pt", weights_only=True)
        for name, value in changes.items():
            full = name.replace("__", ".")
            if value is None:
                del weights[full]
            else:
                weights[full] = value
        torch.save(weights, folder / "model.pt")

    return write


def settle(part, **changes):
    def write(folder):
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        (settings[part] if part else settings).update(changes)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))

    return write


class Runs:
    def __reduce__(self):
        return (print, ("it ran",))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "am.mvn").unlink(), "has no am.mvn, of model.pt, config.yaml"),
        (lambda folder: (folder / "model.pt").unlink(), "give the folder of a whole copy of Sense"),
        (lambda folder: (folder / "model.pt").write_bytes(b""), "model.pt' is empty; download"),
        (point, r"model.pt' is a pointer of Git LFS of 13\d bytes and not the file itself"),
        (cut, "model.pt' is damaged or was not downloaded to its end"),
        (lambda folder: torch.save(Runs(), folder / "model.pt"), "holds more than weights, which"),
        (lambda folder: torch.save([1], folder / "model.pt"), "holds a list, wanted weights by"),
        (change(embed__weight=None), "1 missing .embed.weight."),
        (change(extra=torch.zeros(2)), "1 unexpected .extra."),
        (change(embed__weight=torch.zeros(16, 80)), r"embed.weight is \(16, 80\), wanted"),
        (change(embed__weight=torch.full((16, 560), np.nan)), "values that are not finite"),
        (settle("encoder_conf", sanm_shfit=5), "has encoder_conf.sanm_shfit 5, but this network"),
        (settle("encoder_conf", output_size="16"), "encoder_conf.output_size '16', wanted an int"),
        (settle("frontend_conf", fs=8000), "has frontend_conf.fs 8000, but this network is"),
        (settle("", encoder="Paraformer"), "has encoder 'Paraformer', but this network"),
        (settle("", encoder_conf=None), "has no settings 'encoder_conf'"),
        (lambda folder: (folder / "config.yaml").write_text("a: [1"), "config.yaml' is not YAML"),
        (lambda folder: (folder / "am.mvn").write_text("<Nnet>"), "am.mvn' holds nothing, wanted"),
    ],
)
def test_what_is_no_copy_of_the_published_folder_is_refused(folder, damage, words, capsys):
    damage(folder)
    with pytest.raises(OmniError, match=words):
        SenseVoice(str(folder))
    assert "it ran" not in capsys.readouterr().out


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(
        OmniError, match=r"no folder '.*/nothing'; give the folder of a copy of Sens"
    ):
        SenseVoice(str(tmp_path / "nothing"))
