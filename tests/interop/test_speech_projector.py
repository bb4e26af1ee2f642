"""The speech projector of a release is converted both ways bit by bit; its encoder is skipped."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.interop import Backbone, load_backbone
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import ContinuousFeatures

DIM, WIDTH, SPEECH = 32, 12, "model.audio_projection."
SHAPES = {
    "pre_proj_layernorm.weight": (WIDTH,),
    "pre_proj_layernorm.bias": (WIDTH,),
    "mlp.0.weight": (DIM, WIDTH),
    "mlp.2.weight": (DIM, DIM),
}
ENCODER = {
    "model.audio_model.embed.weight": (16, 4),
    "model.audio_model.encoder.encoders0.0.norm1.weight": (4,),
    "model.audio_model.encoder.encoders0.0.count": (),
}
CONFIG = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "vocab_size": 60,
    "hidden_size": DIM,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
}


def language_shapes():
    layer = {
        "self_attn.q_proj.weight": (DIM, DIM),
        "self_attn.q_proj.bias": (DIM,),
        "self_attn.k_proj.weight": (DIM // 2, DIM),
        "self_attn.k_proj.bias": (DIM // 2,),
        "self_attn.v_proj.weight": (DIM // 2, DIM),
        "self_attn.v_proj.bias": (DIM // 2,),
        "self_attn.o_proj.weight": (DIM, DIM),
        "mlp.gate_proj.weight": (40, DIM),
        "mlp.up_proj.weight": (40, DIM),
        "mlp.down_proj.weight": (DIM, 40),
        "input_layernorm.weight": (DIM,),
        "post_attention_layernorm.weight": (DIM,),
    }
    layers = {f"model.layers.{n}.{k}": shape for n in range(2) for k, shape in layer.items()}
    tables = {"model.embed_tokens.weight": (60, DIM), "lm_head.weight": (60, DIM)}
    return {**layers, **tables, "model.norm.weight": (DIM,)}


def release(folder, *, change=lambda state: None, dtype=torch.bfloat16):
    """A small random checkpoint with the names of the Omni-Diffusion release."""
    rng = torch.Generator().manual_seed(0)
    speech = {SPEECH + name: shape for name, shape in SHAPES.items()}
    shapes = {**language_shapes(), **speech, **ENCODER}
    state = {name: torch.randn(shape, generator=rng).to(dtype) for name, shape in shapes.items()}
    change(state)
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return state


def imported(tmp_path, kind="omni-diffusion"):
    args = ["--input", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")]
    return main(["import", "--from", kind, *args])


def as_bytes(state):
    return {k: (v.dtype, v.reshape(-1).view(torch.uint8).tolist()) for k, v in state.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_release_goes_in_and_out_bit_by_bit_but_for_its_encoder(tmp_path, dtype):
    given = release(tmp_path / "theirs", dtype=dtype)
    assert imported(tmp_path) == 0
    args = ["--model", str(tmp_path / "ours"), "--output", str(tmp_path / "out"), "--format", "hf"]
    assert main(["export", *args]) == 0
    written = load_file(tmp_path / "out" / "model.safetensors")
    kept = {name: value for name, value in given.items() if name not in ENCODER}
    assert as_bytes(written) == as_bytes(kept)


@torch.no_grad()
def test_a_release_an_import_and_exports_are_one_network_to_load_backbone(tmp_path):
    release(tmp_path / "theirs")
    assert imported(tmp_path) == 0
    for form in ("hf", "safetensors"):
        args = ["--model", str(tmp_path / "ours"), "--output", str(tmp_path / form)]
        assert main(["export", *args, "--format", form, "--shard_size", "1e-5"]) == 0
    networks = [load_backbone(tmp_path / f) for f in ("theirs", "ours", "hf", "safetensors")]
    first = as_bytes(networks[0].state_dict())
    assert sum("feature_projector" in name for name in first) == 4
    ids = torch.arange(20).view(2, 10)
    given = ContinuousFeatures(torch.tensor([3, 14]), torch.randn(2, WIDTH))
    logits = [network.float()(ids, continuous=given) for network in networks]
    assert all(torch.equal(out, logits[0]) for out in logits)
    changed = networks[0](ids, continuous=ContinuousFeatures(given.positions, -given.features))
    assert not torch.equal(changed, logits[0])


@torch.no_grad()
def test_the_projector_computes_what_the_release_s_layers_do(tmp_path):
    state = release(tmp_path / "theirs", dtype=torch.float32)
    ours = load_backbone(tmp_path / "theirs").transformer.feature_projector
    features = torch.randn(5, WIDTH)
    norm, first, second = (
        torch.nn.LayerNorm(WIDTH),
        torch.nn.Linear(WIDTH, DIM, bias=False),
        torch.nn.Linear(DIM, DIM, bias=False),
    )
    norm.weight.copy_(state[f"{SPEECH}pre_proj_layernorm.weight"])
    norm.bias.copy_(state[f"{SPEECH}pre_proj_layernorm.bias"])
    first.weight.copy_(state[f"{SPEECH}mlp.0.weight"])
    second.weight.copy_(state[f"{SPEECH}mlp.2.weight"])
    expected = second(torch.nn.GELU()(first(norm(features))))
    torch.testing.assert_close(ours(features), expected)


def test_the_encoder_s_weights_are_counted_and_named(tmp_path, caplog):
    release(tmp_path / "theirs")
    for act in (lambda: imported(tmp_path), lambda: load_backbone(tmp_path / "theirs")):
        caplog.clear()
        act()
        (told,) = [r.getMessage() for r in caplog.records if "skipped in" in r.getMessage()]
        assert "3 weights of its speech encoder (model.audio_model.embed.weight, ...)" in told
        assert "69 parameters" in told


def test_a_checkpoint_of_tokens_alone_gets_no_projector_and_no_warning(tmp_path, caplog):
    def without(state):
        for name in [n for n in state if ".audio_" in n]:
            del state[name]

    release(tmp_path / "theirs", change=without)
    assert imported(tmp_path, "dream") == 0
    assert load_backbone(tmp_path / "ours").transformer.feature_projector is None
    assert not any("skipped in" in r.getMessage() for r in caplog.records)


def set_to(name, shape):
    def change(state):
        state[SPEECH + name] = torch.zeros(shape)

    return change


FAULTS = {
    "another model width": (
        set_to("mlp.0.weight", (DIM + 1, WIDTH)),
        f"1 of another shape ({SPEECH}mlp.0.weight is ({DIM + 1}, {WIDTH}), "
        f"wanted ({DIM}, {WIDTH}))",
    ),
    "another feature width": (set_to("mlp.0.weight", (DIM, 7)), "wanted (32, 12))"),
    "a scalar norm": (
        set_to("pre_proj_layernorm.weight", ()),
        f"{SPEECH}pre_proj_layernorm.weight is (), wanted ({WIDTH},)",
    ),
    "a part missing": (
        lambda s: s.pop(f"{SPEECH}mlp.2.weight"),
        f"1 missing ({SPEECH}mlp.2.weight)",
    ),
    "the norm missing": (
        lambda s: [s.pop(f"{SPEECH}pre_proj_layernorm.{n}") for n in ("weight", "bias")],
        f"2 missing ({SPEECH}pre_proj_layernorm.bias, ",
    ),
    "a part by two names": (
        lambda s: s.update({"audio_projection.mlp.2.weight": s[f"{SPEECH}mlp.2.weight"].clone()}),
        "2 given twice",
    ),
    "a part too many": (set_to("mlp.4.weight", (1,)), f"1 unexpected ({SPEECH}mlp.4.weight)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_projector_that_does_not_fit_is_one_sentence_and_nothing_is_written(
    tmp_path, capsys, name
):
    change, words = FAULTS[name]
    release(tmp_path / "theirs", change=change)
    assert imported(tmp_path) == 2
    (told,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert words in told
    assert not (tmp_path / "ours").exists()
    with pytest.raises(OmniError):
        load_backbone(tmp_path / "theirs")


def test_a_projector_is_none_of_qwen2_s_parts(tmp_path, capsys):
    args = {"qkv_bias": True, "qk_norm": False, "tie_embeddings": False, "rope_sections": None}
    sizes = {"dim": 32, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 40}
    model = Transformer(60, [], **args, **sizes, rope_theta=1e4, continuous_dim=WIDTH)
    Backbone(model, right_shift_logits=False).save_pretrained(tmp_path / "ours")
    args = ["--model", str(tmp_path / "ours"), "--output", str(tmp_path / "out"), "--format", "hf"]
    assert main(["export", *args]) == 2
    assert "projector of continuous features (continuous_dim)" in capsys.readouterr().err
