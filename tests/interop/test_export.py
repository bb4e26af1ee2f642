"""Our models as folders to share, and back, bit by bit."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_omni.cli import main
from lightning_omni.interop import load_backbone
from lightning_omni.interop.backbone import Backbone
from lightning_omni.interop.hub import open_hub
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import FOLDER
from lightning_omni.vocab import Vocab

DREAM = Path(__file__).parents[3] / "shared" / "parity" / "dream_tiny"
SHAPE = {
    "dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_dim": 48,
    "rope_theta": 5e4,
    "rope_sections": None,
    "qkv_bias": True,
    "qk_norm": False,
    "tie_embeddings": False,
}


def ours(folder, *, dtype=torch.float32, wrap=None, code_spans=(), **changes):
    """A random backbone of ours, saved; `wrap` puts it into a Backbone that is shifted or not."""
    torch.manual_seed(0)
    model = Transformer(97, list(code_spans), **{**SHAPE, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module = model if wrap is None else Backbone(model, right_shift_logits=wrap)
    module.to(dtype).save_pretrained(folder)
    return folder


def export(folder, out, *more, form="hf"):
    args = ["--model", str(folder), "--output", str(out), "--format", form, *more]
    return main(["export", *args])


def bits(folder):
    """Every weight's bytes, names and format, of one file."""
    state = load_file(folder / "model.safetensors")
    return {
        k: (v.dtype, v.shape, v.reshape(-1).view(torch.uint8).tolist()) for k, v in state.items()
    }


@pytest.mark.parametrize("shard", [[], ["--shard_size", "2e-5"]], ids=["whole", "shards"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("form", "wrap", "kind"),
    [("hf", True, "dream"), ("hf", False, "qwen2"), ("safetensors", None, "lightning_omni")],
)
def test_what_is_exported_comes_back_bit_by_bit(tmp_path, form, wrap, kind, dtype, tied, shard):
    model = ours(tmp_path / "ours", dtype=dtype, wrap=wrap, tie_embeddings=tied)
    assert export(model, tmp_path / "out", *shard, form=form) == 0
    index = tmp_path / "out" / "model.safetensors.index.json"
    assert index.is_file() == bool(shard)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1 or not shard
    args = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "back")]
    assert main(["import", "--from", kind, *args]) == 0
    assert bits(tmp_path / "back") == bits(model)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
        (model / "config.json").read_text()
    )
    ids = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, second = (load_backbone(f).to(dtype)(ids) for f in (model, tmp_path / "out"))
    assert torch.equal(first, second)


def test_written_files_are_those_of_safetensors_itself(tmp_path):
    model = ours(tmp_path / "ours")
    state = load_file(model / "model.safetensors")
    state["norm.weight"] = state["norm.weight"].half()
    save_file(state, model / "model.safetensors")
    assert export(model, tmp_path / "out", form="safetensors") == 0
    one, two = (f / "model.safetensors" for f in (model, tmp_path / "out"))
    assert one.read_bytes() == two.read_bytes()


def test_shards_hold_what_their_index_says_and_no_more_than_asked(tmp_path):
    model = ours(tmp_path / "ours")
    assert export(model, tmp_path / "out", "--shard_size", "2e-5") == 0
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    shards = {p.name: load_file(p) for p in (tmp_path / "out").glob("*.safetensors")}
    assert {name: f for f, state in shards.items() for name in state} == index["weight_map"]
    sizes = [sum(v.nbytes for v in state.values()) for state in shards.values()]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert all(n <= 20_000 or len(s) == 1 for n, s in zip(sizes, shards.values(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", [[], ["--shard_size", "2e-5"]], ids=["whole", "shards"])
def test_transformers_opens_an_export_and_agrees(tmp_path, tied, shard):
    transformers = pytest.importorskip("transformers")
    model = ours(tmp_path / "ours", tie_embeddings=tied)
    assert export(model, tmp_path / "out", *shard) == 0
    theirs, told = transformers.Qwen2ForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    ids = torch.randint(0, 97, (2, 9))
    mask = {"full_attention": torch.ones(2, 1, 9, 9, dtype=torch.bool)}
    expected = theirs.eval()(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(load_backbone(model)(ids), expected, atol=1e-4, rtol=0)


@pytest.mark.skipif(not DREAM.is_dir(), reason="reference numbers are not here")
@torch.no_grad()
def test_the_reference_s_checkpoint_goes_in_and_out(tmp_path):
    args = ["--input", str(DREAM), "--output", str(tmp_path / "ours")]
    assert main(["import", "--from", "dream", *args]) == 0
    assert export(tmp_path / "ours", tmp_path / "out") == 0
    given, written = load_file(DREAM / "model.safetensors"), bits(tmp_path / "out")
    assert written.keys() == given.keys()
    assert all(written[n][2] == given[n].reshape(-1).view(torch.uint8).tolist() for n in given)
    ids = torch.randint(0, 512, (2, 9))
    first, second = (load_backbone(f)(ids) for f in (DREAM, tmp_path / "out"))
    assert torch.equal(first, second)


def refused(args, words, capsys):
    assert main(args) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert words in error[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_sections": [2, 1, 1]}, "(rope_sections [2, 1, 1])"),
        ({"qk_norm": True}, "query-key norm (qk_norm)"),
        ({"code_spans": [[10, 4, 3]]}, "codebook embeddings (code_spans)"),
        ({"qkv_bias": False}, "queries, keys and values without biases (qkv_bias)"),
        ({"isolate_prompt": True}, "(isolate_prompt)"),
    ],
)
def test_a_backbone_that_is_no_qwen2_is_refused_by_the_property(tmp_path, capsys, changes, words):
    model = ours(tmp_path / "ours", **changes)
    args = ["export", "--model", str(model), "--output", str(tmp_path / "out"), "--format", "hf"]
    refused(args, "cannot be written as hf, because Qwen2 does not have its ", capsys)
    refused(args, f"{words}; give --format safetensors", capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours"]
    assert export(model, tmp_path / "out", form="safetensors") == 0


def test_sections_of_the_index_alone_are_qwen2_s(tmp_path):
    assert export(ours(tmp_path / "ours", rope_sections=[4, 0, 0]), tmp_path / "out") == 0


def test_the_shipped_model_is_exported_whole_in_our_format_and_refused_as_hf(tmp_path, capsys):
    args = ["export", "--model", "shipped", "--output", str(tmp_path / "out"), "--format"]
    refused([*args, "hf"], "query-key norm (qk_norm), codebook embeddings (code_spans)", capsys)
    assert not any(tmp_path.iterdir())
    assert main([*args, "safetensors"]) == 0
    out = tmp_path / "out"
    for path in (
        p for p in FOLDER.rglob("*") if p.suffix in (".json", ".tiktoken", ".safetensors")
    ):
        copied = out / path.relative_to(FOLDER)
        assert copied.read_bytes() == path.read_bytes()
    card = (out / "README.md").read_text()
    assert (FOLDER / "README.md").read_text().strip() in card
    sums = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(sums) == files - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
        assert name == "README.md" or f"`{name}`: {digest}" in card


def test_a_whole_model_in_shards_is_joined_to_what_it_was(tmp_path):
    args = ["--output", str(tmp_path / "out"), "--format", "safetensors", "--shard_size", "0.001"]
    assert main(["export", "--model", "shipped", *args]) == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    args = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "back")]
    assert main(["import", "--from", "lightning_omni", *args]) == 0
    for path in (p for p in FOLDER.rglob("*") if p.is_file() and p.name != "SHA256SUMS"):
        content = (tmp_path / "back" / path.relative_to(FOLDER)).read_bytes()
        assert content.endswith(path.read_bytes())


def test_a_card_holds_the_recipe_and_the_evaluation_of_these_very_weights(tmp_path):
    from lightning_omni.pretrained import fingerprint

    model = ours(tmp_path / "run" / "export")
    (model.parent / "config.yaml").write_text("seed_everything: 1\n")
    results = model.parent / "eval" / "results.json"
    results.parent.mkdir()
    results.with_suffix(".md").write_text("| task | wer |\n")
    for n, found in enumerate((fingerprint(model), "of others")):
        results.write_text(json.dumps({"fingerprint": found}))
        assert export(model, tmp_path / str(n)) == 0
        card = (tmp_path / str(n) / "README.md").read_text()
        assert ("| task | wer |" in card) == (n == 0)
        assert "licences are unknown" in card
        assert (tmp_path / str(n) / "recipe.yaml").read_text() == "seed_everything: 1\n"


def test_an_export_of_an_export_says_nothing_twice(tmp_path):
    assert export(ours(tmp_path / "ours"), tmp_path / "one", form="safetensors") == 0
    assert export(tmp_path / "one", tmp_path / "two", form="safetensors") == 0
    one, two = ((tmp_path / n / "README.md").read_text() for n in ("one", "two"))
    assert one == two


class FakeHub:
    """Remembers what it was asked for; `fails` is raised in an upload."""

    def __init__(self, fails=None):
        self.fails, self.made, self.uploaded = fails, [], []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.made.append((repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.fails is not None:
            raise self.fails
        self.uploaded.append((repo_id, sorted(p.name for p in folder_path.iterdir())))


def test_a_push_uploads_the_whole_folder_once_and_only_when_asked(tmp_path, monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr("lightning_omni.interop.export.open_hub", lambda _: hub)
    model = ours(tmp_path / "ours")
    assert export(model, tmp_path / "one") == 0
    assert hub.made == hub.uploaded == []
    assert export(model, tmp_path / "two", "--push", "me/small") == 0
    assert hub.made == [("me/small", True, True)]
    files = ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    assert hub.uploaded == [("me/small", files)]


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("bad name"), KeyError("x")])
def test_a_push_that_fails_keeps_the_folder(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr("lightning_omni.interop.export.open_hub", lambda _: FakeHub(error))
    model = ours(tmp_path / "ours")
    args = ["export", "--model", str(model), "--output", str(tmp_path / "out"), "--format", "hf"]
    refused([*args, "--push", "me/small"], "the folder is complete", capsys)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("repo", ["small", "me/", "/small", "a/b/c", "me/sm all", ""])
def test_a_push_to_no_repository_writes_nothing(tmp_path, capsys, repo):
    args = ["export", "--model", "shipped", "--output", str(tmp_path / "out")]
    refused([*args, "--format", "safetensors", "--push", repo], "wanted owner/name", capsys)
    assert not any(tmp_path.iterdir())


def test_the_package_s_client_has_the_calls_that_a_push_makes():
    import inspect

    hub = open_hub("--push")
    for fake, call in (
        (FakeHub.create_repo, "create_repo"),
        (FakeHub.upload_folder, "upload_folder"),
    ):
        wanted = set(inspect.signature(fake).parameters) - {"self"}
        assert wanted <= set(inspect.signature(getattr(hub, call)).parameters)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "pickle"], "one of 'safetensors', 'hf'"),
        (["--format", "hf", "--shard_size", "0"], "shard_size is 0"),
        (["--format", "hf", "--shard_size", "nan"], "shard_size"),
        (["--format", "hf", "--model", "gone"], "no config.json in 'gone'"),
        (["--format", "hf", "--model", str(FOLDER / "image_tokenizer")], "holds a ImageTokenizer"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(tmp_path, capsys, args, words):
    before = [] if "--model" in args else ["--model", "shipped"]
    refused(["export", *before, *args, "--output", str(tmp_path / "out")], words, capsys)
    assert not any(tmp_path.iterdir())


def test_a_place_that_is_taken_is_refused(tmp_path, capsys):
    args = ["export", "--model", "shipped", "--format", "safetensors", "--output"]
    (tmp_path / "file").write_text("mine")
    refused([*args, str(tmp_path / "file")], "it is a file", capsys)
    (tmp_path / "out.partial").mkdir()
    refused([*args, str(tmp_path / "out")], "left of a run that was stopped; delete it", capsys)
    refused([*args, str(tmp_path)], "is not empty", capsys)


@pytest.mark.parametrize("form", ["hf", "safetensors"])
def test_ids_of_an_import_leave_with_it_and_come_back_byte_by_byte(tmp_path, form):
    theirs = ours(tmp_path / "seed", wrap=True)
    assert export(theirs, tmp_path / "theirs") == 0
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert "mask_token_id" not in config
    ids = {"mask_token_id": 96, "pad_token_id": 7}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | ids))
    kinds = {"theirs": "dream", "out": "dream" if form == "hf" else "lightning_omni"}
    for source, target in (("theirs", "one"), ("out", "two")):
        args = ["--input", str(tmp_path / source), "--output", str(tmp_path / target)]
        assert main(["import", "--from", kinds[source], *args]) == 0
        if source == "theirs":
            assert export(tmp_path / "one", tmp_path / "out", form=form) == 0
    if form == "hf":
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert {key: written[key] for key in ids} == ids
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_ids_of_a_vocabulary_beside_the_weights_are_written_as_hf(tmp_path):
    model = ours(tmp_path / "ours", right_shift_logits=True)
    vocab = Vocab(40, {"image": 12}, "released")
    (model / "vocab.json").write_text(json.dumps(vocab.to_dict()))
    assert export(model, tmp_path / "out") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = (vocab.mask_token_id, vocab.pad_token_id)
    assert (config["mask_token_id"], config["pad_token_id"]) == expected
