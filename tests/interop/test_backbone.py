"""Checkpoints of others give the numbers of others, with row i scoring token i."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import QWEN_SHAPE

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.interop import Backbone, load_backbone
from lightning_omni.interop.checkpoint import weight_files
from lightning_omni.nn.transformer import Transformer

FOLDER = Path(__file__).parents[3] / "shared" / "parity" / "dream_tiny"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason="reference numbers are not here")


def qwen2(folder, *, tied=False, heads=4, kv_heads=2, seed=0, **more):
    """A random Qwen2 of `transformers` that attends in both directions, as the hub lays it out."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=97,
        hidden_size=16 * heads,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        is_causal=False,
        **more,
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    model.save_pretrained(folder, safe_serialization=True)
    return model


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_qwen2_with_attention_in_both_directions_agrees_with_transformers(
    tmp_path, heads, kv_heads, tied
):
    theirs = qwen2(tmp_path, heads=heads, kv_heads=kv_heads, tied=tied)
    ids = torch.randint(0, 97, (2, 13))
    expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(load_backbone(tmp_path)(ids), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_positions_of_one_row_hold_for_all_and_those_of_another_shape_are_refused(tmp_path):
    qwen2(tmp_path)
    ours, ids = load_backbone(tmp_path), torch.randint(0, 97, (3, 6))
    row = torch.tensor([0, 1, 0, 1, 2, 3])
    expected = ours(ids, row.expand(3, 6))
    assert torch.equal(ours(ids, row[None]), expected)
    assert torch.equal(ours(ids, row), expected)
    for wrong in (row[:5], row.expand(2, 6), row[:, None]):
        with pytest.raises(OmniError, match=r"wanted that of input_ids, \(3, 6\)"):
            ours(ids, wrong)


@torch.no_grad()
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([3, 4], r"shape \(2,\), wanted rows"),
        ([[]], r"shape \(1, 0\), wanted rows"),
        ([[3, 99]], "from 3 to 99, wanted 0 to 59"),
        ([[-1, 5]], "from -1 to 5, wanted 0 to 59"),
    ],
)
def test_tokens_that_are_no_rows_of_known_ids_are_refused(ids, expected):
    backbone = Backbone(Transformer(60, [], **QWEN_SHAPE), right_shift_logits=False)
    with pytest.raises(OmniError, match=expected):
        backbone(torch.tensor(ids).long())


def test_a_stored_head_that_is_the_tied_table_is_taken(tmp_path):
    qwen2(tmp_path, tied=True)
    ids = torch.randint(0, 97, (1, 5))
    expected = load_backbone(tmp_path)(ids)
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load_backbone(tmp_path)(ids), expected)
    state["lm_head.weight"][-1, -1] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(OmniError, match="differs from its"):
        load_backbone(tmp_path)


@torch.no_grad()
def test_packed_segments_are_those_alone(tmp_path):
    qwen2(tmp_path)
    ours, lengths = load_backbone(tmp_path), [5, 1, 7]
    ids = torch.randint(0, 97, (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = ours(ids, positions)
    alone = torch.cat([ours(part) for part in ids.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_shifted_network_scores_each_token_at_its_own_row(tmp_path):
    qwen2(tmp_path)
    ids, lengths = torch.randint(0, 97, (1, 9)), [4, 5]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    plain = load_backbone(tmp_path)(ids, positions)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "Dream"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shifted = load_backbone(tmp_path)(ids, positions)
    source = [0, 0, 1, 2, 4, 4, 5, 6, 7]
    torch.testing.assert_close(shifted, plain[:, source])


@needs_reference
@torch.no_grad()
def test_dream_gives_the_reference_s_numbers():
    ours, case = load_backbone(FOLDER), load_file(FOLDER / "forward.safetensors")
    single = ours(case["single.input_ids"])
    torch.testing.assert_close(single[:, 1:], case["single.logits"][:, :-1], atol=1e-4, rtol=0)
    positions = case["packed.position_ids"]
    packed = ours(case["packed.input_ids"], positions)
    inside = (positions[0] != 0).nonzero().squeeze(1)
    expected = case["packed.logits"][:, inside - 1]
    torch.testing.assert_close(packed[:, inside], expected, atol=1e-4, rtol=0)


def sharded(folder):
    """Split the one file of a checkpoint in two, with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = [dict(list(state.items())[i::2]) for i in range(2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / name)
    where = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return state, names


@torch.no_grad()
def test_shards_are_one_checkpoint(tmp_path):
    qwen2(tmp_path)
    ids = torch.randint(0, 97, (1, 5))
    whole = load_backbone(tmp_path)(ids)
    _, names = sharded(tmp_path)
    torch.testing.assert_close(load_backbone(tmp_path)(ids), whole)
    (tmp_path / names[1]).unlink()
    with pytest.raises(OmniError, match=f"names {names[1]}"):
        load_backbone(tmp_path)


def test_missing_unexpected_and_misshapen_weights_are_all_named(tmp_path):
    qwen2(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.norm.weight"]
    state["model.extra.weight"] = torch.zeros(1)
    state["lm_head.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(OmniError) as error:
        load_backbone(tmp_path)
    for words in ("norm.weight", "model.extra.weight", "lm_head.weight is (3, 3), wanted (97, 64)"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "gpt2"}, "type 'gpt2'"),
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope scaling yarn"),
        ({"vocab_size": None}, "vocab"),
    ],
)
def test_networks_that_ours_is_not_are_refused(tmp_path, change, expected):
    qwen2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OmniError, match=expected):
        load_backbone(tmp_path)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(OmniError, match="a pickle"):
        weight_files(tmp_path)


def test_weights_keep_their_format_and_no_copy_is_made(tmp_path):
    qwen2(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v.bfloat16() for k, v in state.items()}, tmp_path / "model.safetensors")
    ours = load_backbone(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in (*ours.parameters(), *ours.buffers()))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_an_import_is_the_same_network_in_our_format(tmp_path, tied, dtype):
    qwen2(tmp_path / "theirs", tied=tied)
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    state = {name: value.to(dtype) for name, value in state.items()}
    save_file(state, tmp_path / "theirs" / "model.safetensors")
    config = json.loads((tmp_path / "theirs/config.json").read_text()) | {"model_type": "Dream"}
    (tmp_path / "theirs/config.json").write_text(json.dumps(config))
    folders = ["--input", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours")]
    assert main(["import", "--from", "dream", *folders]) == 0
    ids = torch.randint(0, 97, (2, 7))
    both = [load_backbone(tmp_path / name)(ids) for name in ("theirs", "ours")]
    assert torch.equal(*both)
    assert main(["import", "--from=dream", *folders]) == 2
    embedding = load_backbone(tmp_path / "theirs").transformer.embedding
    assert (embedding.head.weight is embedding.tokens.weight) == tied
