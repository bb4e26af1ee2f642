"""A text model becomes the start of a joint one: rows by id, new rows on the table's scale."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import QWEN_SHAPE, import_small_dream

from lightning_omni.errors import OmniError
from lightning_omni.interop import load_backbone
from lightning_omni.modules import initial_weights
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.nn.adapters import Lora
from lightning_omni.nn.transformer import Transformer
from lightning_omni.vocab import Vocab

TEXT, PADDING = 300, 12
VOCAB = Vocab(TEXT, {"speech": 400, "image": 64}, "released")
KNOWN = TEXT + 24
IDS = {"mask_token_id": KNOWN - 1, "pad_token_id": TEXT, "bos_token_id": TEXT}
TABLES = ("embedding.tokens.weight", "embedding.head.weight")


def backbone(rows=VOCAB.size, **changes):
    torch.manual_seed(0)
    return Transformer(rows, [], **{**QWEN_SHAPE, "right_shift_logits": True, **changes})


@pytest.fixture
def imported(tmp_path):
    return import_small_dream(tmp_path, KNOWN + PADDING, token_ids=IDS)


def test_the_ids_that_dream_knows_end_with_the_mask():
    full = Vocab(151_643, {"speech": 16_384, "image": 8_192}, "released")
    assert full.num_inherited == 151_667
    known = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
    assert [full.special_id(t) for t in known] == [151_643, 151_644, 151_645, 151_665, 151_666]
    assert full.special_id("<|begin_of_image|>") == full.num_inherited
    assert Vocab(9, {"speech": 3}).num_inherited == 0


@pytest.mark.parametrize("tied", [False, True])
def test_known_rows_are_kept_by_id_and_new_ones_have_their_mean_and_spread(tmp_path, tied):
    folder = import_small_dream(tmp_path, KNOWN + PADDING, tie_embeddings=tied)
    model = backbone(tie_embeddings=tied)
    load_initial_weights(model, folder, VOCAB, seed=3)
    theirs = load_backbone(folder).transformer.state_dict()
    for name, value in model.state_dict().items():
        if name not in TABLES:
            assert torch.equal(value, theirs[name]), name
            continue
        old, new = theirs[name][:KNOWN], value[KNOWN:]
        assert torch.equal(value[:KNOWN], old)
        assert not any(
            torch.equal(row, pad) for row, pad in zip(new, theirs[name][KNOWN:], strict=False)
        )
        error = (new.mean(0) - old.mean(0)) / old.std(0) * len(new) ** 0.5
        assert error.abs().max() < 4.5
        torch.testing.assert_close(new.std(0), old.std(0), rtol=0.2, atol=0)
    shared = model.embedding.head.weight is model.embedding.tokens.weight
    assert shared == tied
    assert torch.equal(model.embedding.head.weight, model.embedding.tokens.weight) == tied


def test_new_rows_follow_the_seed(imported):
    first, again, other = backbone(), backbone(), backbone()
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        load_initial_weights(model, imported, VOCAB, seed=seed)
    for name in TABLES:
        one, two, three = (m.state_dict()[name] for m in (first, again, other))
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_rows_of_the_two_tables_are_drawn_apart(imported):
    model = backbone()
    load_initial_weights(model, imported, VOCAB, seed=3)
    new = torch.stack([model.state_dict()[name][KNOWN:].flatten() for name in TABLES])
    assert torch.corrcoef(new)[0, 1].abs() < 0.1


def test_what_becomes_of_the_rows_is_one_sentence(imported, caplog):
    with caplog.at_level(logging.INFO):
        load_initial_weights(backbone(), imported, VOCAB, seed=3)
    (said,) = [r.getMessage() for r in caplog.records if r.name == initial_weights.__name__]
    assert f"rows for {KNOWN + PADDING} ids: {KNOWN} are kept, {PADDING} have no" in said
    assert f"{VOCAB.size - KNOWN} new rows" in said


def test_a_checkpoint_of_the_whole_vocabulary_is_taken_as_it_is(tmp_path):
    folder = import_small_dream(tmp_path, VOCAB.size, kind="omni-diffusion", token_ids=IDS)
    model = backbone()
    load_initial_weights(model, folder, VOCAB, seed=3)
    theirs = load_backbone(folder).transformer.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_weights_are_read_one_at_a_time(imported, monkeypatch):
    held = []
    fill = initial_weights._write_weight

    def watched(name, pieces, value, *rest, **more):
        held.append(name)
        fill(name, pieces, value, *rest, **more)

    monkeypatch.setattr(initial_weights, "_write_weight", watched)
    load_initial_weights(backbone(), imported, VOCAB, seed=3)
    assert sorted(held) == sorted(backbone().state_dict())


@pytest.mark.parametrize("start", [1, KNOWN, KNOWN + 100])
def test_tables_of_which_only_new_rows_are_trained_are_filled_alike(imported, start):
    pytest.importorskip("peft")
    plain, split = backbone(), backbone()
    Lora(rank=1, alpha=1.0, trainable_rows_from=start).adapt(split)
    for model in (plain, split):
        load_initial_weights(model, imported, VOCAB, seed=3)
    assert torch.equal(split.embedding.tokens.weight, plain.embedding.tokens.weight)
    assert torch.equal(split.embedding.head.weight, plain.embedding.head.weight)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"right_shift_logits": False}, "right_shift_logits is True, not False"),
        ({"rope_theta": 5.0}, "rope_theta is 10000.0, not 5.0"),
        ({"num_heads": 8}, "num_heads is 4, not 8"),
        ({"tie_embeddings": True}, "tie_embeddings is False, not True"),
        ({"num_layers": 3}, "num_layers is 2, not 3"),
    ],
)
def test_another_architecture_is_refused_also_where_shapes_agree(imported, changes, words):
    with pytest.raises(OmniError, match=f"another architecture: .*{words}"):
        load_initial_weights(backbone(**changes), imported, VOCAB, seed=3)


@pytest.mark.parametrize("kind", [True, False])
def test_a_stage_and_the_one_before_agree_on_the_shift(tmp_path, kind):
    backbone(right_shift_logits=kind).save_pretrained(tmp_path)
    load_initial_weights(backbone(right_shift_logits=kind), tmp_path, VOCAB, seed=3)
    with pytest.raises(OmniError, match=f"right_shift_logits is {kind}, not {not kind}"):
        load_initial_weights(backbone(right_shift_logits=not kind), tmp_path, VOCAB, seed=3)


def test_exports_from_before_there_was_a_shift_have_none(tmp_path):
    backbone(right_shift_logits=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["init_args"]["right_shift_logits"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_initial_weights(backbone(right_shift_logits=False), tmp_path, VOCAB, seed=3)
    with pytest.raises(OmniError, match="right_shift_logits is False, not True"):
        load_initial_weights(backbone(), tmp_path, VOCAB, seed=3)


def test_another_vocabulary_is_refused(imported, tmp_path):
    for sizes in ({"speech": 400, "image": 64}, {"speech": 4, "image": 4}):
        shorter = Vocab(TEXT - 1, sizes, "released")
        with pytest.raises(OmniError, match=f"mask_token_id {KNOWN - 1} but the vocab has"):
            load_initial_weights(backbone(shorter.size), imported, shorter, seed=3)
    bare = import_small_dream(tmp_path / "bare", KNOWN - 1)
    with pytest.raises(OmniError, match=f"has {KNOWN - 1} rows, but a text model"):
        load_initial_weights(backbone(), bare, VOCAB, seed=3)
    own = Vocab(TEXT, {"speech": 400, "image": 64})
    with pytest.raises(OmniError, match=r"tokens of its own; set data\.special_tokens"):
        load_initial_weights(backbone(own.size), bare, own, seed=3)


def test_an_import_keeps_the_ids_that_the_checkpoint_names_and_no_others(imported):
    with initial_weights.safe_open(imported / "model.safetensors", framework="pt") as weights:
        assert weights.metadata() == {"mask_token_id": str(KNOWN - 1), "pad_token_id": str(TEXT)}


def test_a_checkpoint_that_was_not_imported_says_how(imported):
    with pytest.raises(OmniError, match="holds a published checkpoint; run lightning_omni import"):
        load_initial_weights(backbone(), imported.parent / "published", VOCAB, seed=3)


@pytest.mark.parametrize("spoilt", ["cut", "nothing"])
def test_damaged_weights_are_named(imported, spoilt):
    path = imported / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if spoilt == "cut" else b"")
    with pytest.raises(OmniError, match="is damaged"):
        load_initial_weights(backbone(), imported, VOCAB, seed=3)


def test_half_precision_is_widened(tmp_path):
    folder = import_small_dream(tmp_path, VOCAB.size)
    state = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    model = backbone()
    load_initial_weights(model, folder, VOCAB, seed=3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f"transformer.{name}"].float())
