"""Damaged checkpoints: one sentence each, exit code 2, nothing written."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_omni.cli import main

INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e4,
    "is_causal": False,
}


def weights():
    """Random weights of that shape, by their published names."""
    shapes = {"model.embed_tokens.weight": (40, 16), "lm_head.weight": (40, 16)}
    shapes["model.norm.weight"] = (16,)
    for layer in range(2):
        for name, size in (("q", 16), ("k", 8), ("v", 8)):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (size, 16)
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = (size,)
        shapes[f"model.layers.{layer}.self_attn.o_proj.weight"] = (16, 16)
        for name in ("gate", "up"):
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = (24, 16)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (16, 24)
        for name in ("input", "post_attention"):
            shapes[f"model.layers.{layer}.{name}_layernorm.weight"] = (16,)
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A good checkpoint in two shards."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    items = list(weights().items())
    halves = {FIRST: dict(items[::2]), SECOND: dict(items[1::2])}
    for name, half in halves.items():
        save_file(half, folder / name)
    place = {key: name for name, half in halves.items() for key in half}
    (folder / INDEX).write_text(json.dumps({"weight_map": place}))
    return folder


def run(folder):
    args = ["--input", str(folder), "--output", str(folder.parent / "out")]
    return main(["import", "--from", "qwen2", *args])


def test_the_undamaged_checkpoint_is_read(folder):
    assert run(folder) == 0
    assert sorted(p.name for p in (folder.parent / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def config(**changes):
    """A config with some values changed, or left out where they are None."""

    def damage(folder):
        plain = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
        (folder / "config.json").write_text(json.dumps(plain))

    return damage


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, keep):
    """A file of which a share is left."""

    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def weight(change, shard=FIRST):
    """A shard whose weights by name were changed."""

    def damage(folder):
        state = load_file(folder / shard)
        change(state)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / shard)

    return damage


def place(change):
    """An index whose weight_map was changed."""

    def damage(folder):
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


def put(name, value):
    return lambda state: state.__setitem__(name, value)


def swap(state):
    one, two = "model.layers.0.mlp.gate_proj.weight", "model.embed_tokens.weight"
    state[one], state[two] = state[two], state[one]


def unshard(*more):
    """All weights in one file of the same names, and no index."""

    def damage(folder):
        (folder / INDEX).unlink()
        for other in more:
            other(folder)

    return damage


def renamed(old, new):
    """Both shards with some names that begin otherwise."""

    def damage(folder):
        for shard in (FIRST, SECOND):
            state = load_file(folder / shard)
            save_file({k.replace(old, new): v for k, v in state.items()}, folder / shard)

    return damage


def dropped(start):
    """Both shards without the names that begin so."""

    def damage(folder):
        for shard in (FIRST, SECOND):
            state = load_file(folder / shard)
            save_file({k: v for k, v in state.items() if not k.startswith(start)}, folder / shard)

    return damage


def pipe_for_file(folder):
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def outside(folder):
    (folder / FIRST).rename(folder.parent / FIRST)
    index = (folder / INDEX).read_text().replace(FIRST, f"../{FIRST}")
    (folder / INDEX).write_text(index)


def copied(folder):
    """One weight in both shards; no index."""
    (folder / INDEX).unlink()
    both = load_file(folder / SECOND)
    both["model.embed_tokens.weight"] = torch.zeros(40, 16)
    save_file(both, folder / SECOND)


def folder_for_file(folder):
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()


def bare(folder):
    for path in (folder / INDEX, folder / FIRST, folder / SECOND):
        path.unlink()


def pickled(folder):
    bare(folder)
    torch.save(weights(), folder / "pytorch_model.bin")


EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"
TWICE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
NAN = torch.full((40, 16), float("nan"))
INF = torch.zeros(16).index_fill(0, torch.tensor([3]), float("inf"))

LAYER = ", ".join(sorted(name for name in weights() if name.startswith("model.layers.1.")))

DAMAGES = {
    "a shard is missing": (lambda f: (f / SECOND).unlink(), f"names {SECOND}, which is missing"),
    "a shard is missing, no index": (unshard(lambda f: (f / SECOND).unlink()), "missing ("),
    "a shard is cut": (cut(SECOND, 0.7), f"{SECOND}' is damaged"),
    "a shard is cut in its header": (cut(FIRST, 0.01), f"{FIRST}' is damaged"),
    "a shard is empty": (raw(FIRST, b""), f"{FIRST}' is damaged"),
    "a shard is noise": (raw(FIRST, bytes(range(1, 128)) * 9), f"{FIRST}' is damaged"),
    "a shard is a folder": (folder_for_file, f"names {FIRST}, which is missing"),
    "a shard is a pipe": (unshard(pipe_for_file), "missing ("),
    "a header as long as a pickle's first bytes": (
        raw(FIRST, (0x0280).to_bytes(8, "little") + b"{" * 700),
        f"{FIRST}' is damaged",
    ),
    "a shard is a pickle": (raw(FIRST, pickle.dumps({"a": 1})), "is a pickle"),
    "a shard is a zip": (raw(FIRST, b"PK\x03\x04" + b"\0" * 90), "is a pickle"),
    "an absurd header": (raw(FIRST, b"\xff" * 7 + b"\x7f" + b"{}"), f"{FIRST}' is damaged"),
    "a header that is no JSON": (raw(FIRST, header(b"{a: 1}  ")), f"{FIRST}' is damaged"),
    "a header of no UTF-8": (raw(FIRST, header(b"\xff\xfe\xfd  ")), f"{FIRST}' is damaged"),
    "a name twice in a header": (
        raw(FIRST, header(b"{" + TWICE + b"," + TWICE + b"}", b"\0" * 4)),
        "describes 'a' twice",
    ),
    "a weight in two shards": (copied, f"'{EMBED}' is in"),
    "another shape": (weight(put(EMBED, torch.zeros(39, 16))), "is (39, 16), wanted (40, 16)"),
    "a format of its own": (
        weight(lambda s: s.__setitem__(EMBED, s[EMBED].double())),
        f"are F32, but {EMBED} is F64; convert them to one format",
    ),
    "a layer under our names": (unshard(renamed("model.layers.1.", "blocks.1.")), "12 unexpected"),
    "a layer too few": (unshard(dropped("model.layers.1.")), f"12 missing ({LAYER})"),
    "turned": (weight(put(EMBED, torch.zeros(16, 40))), "is (16, 40), wanted (40, 16)"),
    "swapped weights": (weight(swap), "2 of another shape"),
    "int8": (weight(put(EMBED, torch.zeros(40, 16, dtype=torch.int8))), f"{EMBED} is I8, wanted"),
    "bool": (weight(put(EMBED, torch.zeros(40, 16, dtype=torch.bool))), f"{EMBED} is BOOL"),
    "float8": (weight(put(EMBED, torch.zeros(40, 16).to(torch.float8_e4m3fn))), "is F8_E4M3"),
    "not a number": (weight(put(EMBED, NAN)), f"{EMBED} in"),
    "infinite": (weight(put(NORM, INF)), "values that are not finite"),
    "a weight too few": (
        unshard(weight(lambda s: s.pop(EMBED))),
        "1 missing (model.embed_tokens.weight)",
    ),
    "a weight too many": (unshard(weight(put("rope", torch.ones(1)))), "1 unexpected (rope)"),
    "a name of ours": (
        unshard(weight(put("norm.weight", torch.ones(16)))),
        "1 unexpected (norm.weight)",
    ),
    "an index that lies": (place(put(EMBED, SECOND)), f"says that {EMBED} is in {SECOND}, but"),
    "an index that invents": (place(put("ghost", FIRST)), "but it is in no file"),
    "an index that forgets": (place(lambda m: m.pop(EMBED)), f"{EMBED} is in no file, but"),
    "an index to outside": (outside, f"names '../{FIRST}', wanted the name of a file in that"),
    "an index to anywhere": (place(put(EMBED, "/etc/passwd")), "names '/etc/passwd'"),
    "an index to nowhere": (place(put(EMBED, "")), "names '', wanted"),
    "an index to a number": (place(put(EMBED, 7)), "names 7, wanted"),
    "an index that is no JSON": (raw(INDEX, b"{"), "is not JSON"),
    "an index without places": (raw(INDEX, b'{"metadata": {}}'), "has no weight_map"),
    "an index of a list": (raw(INDEX, b'{"weight_map": [1]}'), "has no weight_map"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json in"),
    "a config that is no JSON": (raw("config.json", b"{'a': 1}"), "is not JSON"),
    "a config that is no text": (raw("config.json", b"\xff\x00"), "is not JSON"),
    "a config that is a list": (raw("config.json", b"[]"), "holds a JSON list, not an object"),
    "a config without a size": (config(hidden_size=None), "has no hidden_size"),
    "a config of another kind": (config(model_type="gpt2"), "a model of type 'gpt2'"),
    "a config of a kind not said": (config(model_type="Dream"), "but --from is qwen2"),
    "another vocabulary": (config(vocab_size=41), "is (40, 16), wanted (41, 16)"),
    "a size as text": (config(hidden_size="16"), "hidden_size '16', wanted an integer"),
    "a size below nothing": (config(num_hidden_layers=-1), "num_hidden_layers -1, wanted"),
    "layers without end": (config(num_hidden_layers=10**9), "num_hidden_layers 1000000000, wanted"),
    "more layers than weights": (config(num_hidden_layers=3), "12 missing"),
    "heads that do not divide": (config(num_attention_heads=3), "hidden_size 16, wanted an even"),
    "groups that do not divide": (config(num_key_value_heads=3), "num_key_value_heads 3, wanted"),
    "groups that are none": (config(num_key_value_heads=0), "num_key_value_heads 0, wanted"),
    "groups that are no number": (config(num_key_value_heads=True), "num_key_value_heads True"),
    "heads of another width": (config(head_dim=8), "q_proj.weight is (16, 16), wanted (32, 16)"),
    "heads of no width": (config(head_dim={"a": 1}), "head_dim {'a': 1}, wanted an even number"),
    "tied by a word": (config(tie_word_embeddings="false"), "tie_word_embeddings 'false', wanted"),
    "biases by a word": (config(attention_bias="no"), "attention_bias 'no', wanted true or false"),
    "tied, with another head": (config(tie_word_embeddings=True), "differs from its model.embed_"),
    "a mask beyond the vocabulary": (
        config(mask_token_id=40),
        "mask_token_id 40, wanted an integer",
    ),
    "several masks": (config(mask_token_id=[1, 2]), "mask_token_id [1, 2], wanted an integer"),
    "an angle of nothing": (config(rope_theta=0), "rope_theta 0, wanted a number above 0"),
    "an angle of truth": (config(rope_theta=True), "rope_theta True, wanted a number above 0"),
    "an angle without end": (config(rope_theta=10**400), "wanted a number above 0"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads 0, wanted"),
    "an angle that is none": (config(rope_theta="big"), "rope_theta 'big', wanted a number"),
    "rotary settings that are none": (config(rope_parameters=[1]), "rope_parameters [1], wanted"),
    "pickles alone": (pickled, "holds pytorch_model.bin, a pickle"),
    "no weights": (bare, "no safetensors in"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_sentence_and_nothing_is_written(folder, capsys, damage):
    harm, words = DAMAGES[damage]
    harm(folder)
    before = sorted(folder.parent.iterdir())
    assert run(folder) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert words in errors[0]
    assert "Traceback" not in errors[0]
    assert sorted(folder.parent.iterdir()) == before
