"""Qwen2 and Qwen3 become causal networks of ours with the numbers of `transformers`."""

import json

import pytest
import torch
from published_qwen import (
    QWEN25_TOKENS,
    SENTENCES,
    TEXT,
    change_config,
    write_qwen,
    write_tokenizer,
)
from safetensors.torch import load_file, save_file

from lightning_omni.cli import main
from lightning_omni.interop import load_backbone
from lightning_omni.tokenizers.text import TextTokenizer

pytest.importorskip("transformers")


def run(folder, out, kind="qwen3"):
    return main(["import", "--from", kind, "--input", str(folder), "--output", str(out)])


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids).logits


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@torch.no_grad()
def test_logits_are_those_of_transformers_each_in_the_row_of_the_next_token(
    tmp_path, kind, tied, heads, kv_heads
):
    theirs = write_qwen(tmp_path / "in", kind, tied=tied, heads=heads, kv_heads=kv_heads)
    assert run(tmp_path / "in", tmp_path / "out", kind) == 0
    ids = torch.randint(0, 336, (2, 13))
    expected = logits_of(theirs, ids)
    for folder in ("in", "out"):
        ours = load_backbone(tmp_path / folder)
        assert ours.right_shift_logits
        assert ours.transformer.is_causal
        torch.testing.assert_close(ours(ids)[:, 1:], expected[:, :-1], atol=1e-4, rtol=0)
        ours.transformer.right_shift_logits = False
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_qwen2_without_biases_is_one_whose_biases_are_zero(tmp_path):
    theirs = write_qwen(tmp_path, "qwen2")
    state = load_file(tmp_path / "model.safetensors")
    biases = [name for name in state if name.endswith("bias")]
    for name, parameter in theirs.named_parameters():
        if name in biases:
            parameter.zero_()
    kept = {name: value for name, value in state.items() if name not in biases}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change_config(tmp_path, attention_bias=False)
    ids = torch.randint(0, 336, (2, 9))
    ours = load_backbone(tmp_path)(ids)
    torch.testing.assert_close(ours[:, 1:], logits_of(theirs, ids)[:, :-1], atol=1e-4, rtol=0)


@torch.no_grad()
def test_packed_segments_are_those_alone_also_where_only_some_states_are_asked_for(tmp_path):
    write_qwen(tmp_path)
    ours, lengths = load_backbone(tmp_path), [5, 1, 7]
    ids = torch.randint(0, 336, (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = ours(ids, positions)
    alone = torch.cat([ours(part) for part in ids.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    chosen = torch.tensor([1, 4, 6, 7, 11, 12])
    layout = ours.transformer.segment_layout(lengths, torch.ones(13, dtype=torch.bool))
    places = torch.stack((positions[0], *torch.zeros(2, 13).long()), 1)
    some = ours.transformer(ids[0], places, layout, positions=chosen)
    torch.testing.assert_close(ours.transformer.logits(some), packed[0, chosen], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_next_token_loss_is_that_of_transformers(tmp_path):
    theirs = write_qwen(tmp_path)
    ids = torch.randint(0, 336, (4, 21))
    with torch.enable_grad():
        expected = theirs(input_ids=ids, labels=ids).loss
    ours = load_backbone(tmp_path)(ids)[:, 1:].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(ours, ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_settings_may_stand_where_older_and_newer_files_have_them(tmp_path):
    write_qwen(tmp_path)
    ids = torch.randint(0, 336, (1, 9))
    expected = load_backbone(tmp_path)(ids)
    change_config(tmp_path, rope_parameters=None, rope_theta=5e4, rope_scaling=None)
    assert torch.equal(load_backbone(tmp_path)(ids), expected)
    change_config(tmp_path, tie_word_embeddings=False)  # as some copies say of tied weights
    assert torch.equal(load_backbone(tmp_path)(ids), expected)
    state = load_file(tmp_path / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")  # an untied table of equal values
    torch.testing.assert_close(load_backbone(tmp_path)(ids), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_is_causal_false_makes_it_the_bidirectional_network_that_transformers_takes_it_for(
    tmp_path, kind
):
    theirs = write_qwen(tmp_path / "in", kind, is_causal=False)
    ids = torch.randint(0, 336, (2, 9))
    ours = load_backbone(tmp_path / "in")
    assert not ours.right_shift_logits
    assert not ours.transformer.is_causal
    torch.testing.assert_close(ours(ids), logits_of(theirs, ids), atol=1e-4, rtol=0)
    (tmp_path / "in/tokenizer.json").unlink()  # not needed: it has no text ids of its own to keep
    assert run(tmp_path / "in", tmp_path / "out", kind) == 0


def test_an_export_of_an_older_version_is_still_the_bidirectional_network_it_was(tmp_path):
    write_qwen(tmp_path, "qwen2")
    assert load_backbone(tmp_path).transformer.is_causal
    (tmp_path / "README.md").write_text("---\nlibrary_name: lightning_omni\n---\n")
    assert not load_backbone(tmp_path).transformer.is_causal


@pytest.mark.parametrize("parts", [False, True], ids=["tokenizer.json", "vocab.json, merges.txt"])
def test_text_has_the_ids_of_the_source(tmp_path, parts):
    write_qwen(tmp_path / "in")
    theirs = write_tokenizer(tmp_path / "in")
    if parts:
        plain = json.loads((tmp_path / "in/tokenizer.json").read_text())
        (tmp_path / "in/tokenizer.json").unlink()
        (tmp_path / "in/vocab.json").write_text(json.dumps(plain["model"]["vocab"]))
        merges = "\n".join(" ".join(merge) for merge in plain["model"]["merges"])
        (tmp_path / "in/merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        added = {token["id"]: {"content": token["content"]} for token in plain["added_tokens"]}
        settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
        (tmp_path / "in/tokenizer_config.json").write_text(json.dumps(settings))
    assert run(tmp_path / "in", tmp_path / "out") == 0
    ours = TextTokenizer(tmp_path / "out" / "text.tiktoken")
    assert ours.size == TEXT
    for sentence in SENTENCES:
        assert ours.encode(sentence) == theirs.encode(sentence).ids
        assert ours.decode(ours.encode(sentence)) == sentence


def drop(name):
    return lambda folder: (folder / name).unlink()


def pointer(name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


def tokenizer(change):
    def damage(folder):
        path = folder / "tokenizer.json"
        plain = json.loads(path.read_text())
        change(plain)
        path.write_text(json.dumps(plain))

    return damage


def swap_ids(plain):
    ids = plain["model"]["vocab"]
    one, two = (token for token, i in ids.items() if i in (260, 261))
    ids[one], ids[two] = ids[two], ids[one]


def split_weights(folder):
    """Two shards with an index, the second of which was not downloaded."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(state)
    where = {name: f"model-0000{1 + (i > 9)}-of-00002.safetensors" for i, name in enumerate(names)}
    first = {n: state[n] for n in names if "00001-of" in where[n]}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def half(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def config(**changes):
    return lambda folder: change_config(folder, **changes)


LAYERS = ["full_attention", "full_attention", "sliding_attention"]
DAMAGES = {
    "a sliding window": (config(use_sliding_window=True), "use_sliding_window True, which our"),
    "layers with a window": (config(layer_types=LAYERS), "layer_types sliding_attention, which"),
    "scaled positions": (
        config(rope_parameters=None, rope_scaling={"type": "yarn", "factor": 4.0}),
        "rope scaling yarn, which our transformer does not support",
    ),
    "scaled positions, newer": (
        config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}),
        "rope scaling dynamic",
    ),
    "biases beyond ours": (config(attention_bias=True), "attention_bias True, which our"),
    "experts": (config(model_type="qwen3_moe"), "type 'qwen3_moe' (a mixture of experts)"),
    "another type": (config(model_type="llama"), "type 'llama'; Dream, dense qwen2 and qwen3"),
    "the other Qwen": (config(model_type="qwen2"), "but --from is qwen3; give --from qwen2"),
    "odd heads": (config(head_dim=23), "head_dim 23, wanted an even number"),
    "attention by a word": (config(is_causal="no"), "is_causal 'no', wanted true or false"),
    "a shard not there": (split_weights, "names model-00002-of-00002.safetensors, which is miss"),
    "half a file": (half("model.safetensors"), "model.safetensors' is damaged"),
    "half a tokenizer": (half("tokenizer.json"), "tokenizer.json' is not JSON"),
    "a pointer": (pointer("model.safetensors"), "is a pointer of Git LFS"),
    "a pointer to a tokenizer": (pointer("tokenizer.json"), "tokenizer.json' is a pointer of Git"),
    "no tokenizer": (drop("tokenizer.json"), "no tokenizer.json in"),
    "no settings": (drop("config.json"), "no config.json in"),
    "another pattern": (
        tokenizer(lambda t: t["pre_tokenizer"]["pretokenizers"].pop(0)),
        "has another vocabulary than Qwen's: a BPE that splits words by no pattern",
    ),
    "another algorithm": (
        tokenizer(lambda t: t["model"].__setitem__("type", "Unigram")),
        "has another vocabulary than Qwen's: a Unigram",
    ),
    "a merge too few": (
        tokenizer(lambda t: t["model"]["merges"].pop()),
        f"has {TEXT} text ids up to {TEXT - 1} and {TEXT - 257} merges, wanted ids 0 to",
    ),
    "ids in another order": (tokenizer(swap_ids), "as id 260, wanted the merge"),
    "other special tokens": (
        tokenizer(lambda t: t["added_tokens"][1].__setitem__("content", "<s>")),
        "it is the tokenizer of another vocabulary",
    ),
    "no model": (tokenizer(lambda t: t.pop("model")), "is no byte-pair tokenizer"),
    "a tokenizer of a larger model": (
        lambda folder: write_tokenizer(folder, names=QWEN25_TOKENS, size=320),
        "has 342 ids, but the weights have rows for 336",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(tmp_path, capsys, name):
    damage, words = DAMAGES[name]
    folder = tmp_path / "in"
    write_qwen(folder)
    damage(folder)
    assert run(folder, tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
