"""An imported Qwen becomes the start of a joint model: text by id, mask and media rows added."""

import logging

import pytest
import torch
from published_qwen import QWEN25_TOKENS, TEXT, write_qwen, write_tokenizer
from safetensors.torch import load_file, save_file

from lightning_omni.errors import OmniError
from lightning_omni.interop import load_backbone
from lightning_omni.interop.command import import_checkpoint
from lightning_omni.modules.initial_weights import NUM_KNOWN, load_initial_weights
from lightning_omni.nn.transformer import Transformer
from lightning_omni.vocab import Vocab

pytest.importorskip("transformers")
VOCAB = Vocab(TEXT, {"speech": 400, "image": 64}, "released")
KNOWN = TEXT + len(QWEN25_TOKENS)
SHAPE = {
    "dim": 64,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 24,
    "ffn_dim": 48,
    "rope_theta": 5e4,
    "rope_sections": None,
    "qkv_bias": False,
    "qk_norm": True,
    "right_shift_logits": True,
}
TABLES = ("embedding.tokens.weight", "embedding.head.weight")


def start(folder, *, tied, vocab=VOCAB, **changes):
    """A backbone of the joint vocabulary that starts from an imported folder."""
    model = Transformer(vocab.size, [], **{**SHAPE, "tie_embeddings": tied, **changes})
    load_initial_weights(model, folder, vocab, seed=3)
    return model


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def imported(request, tmp_path):
    write_qwen(tmp_path / "in", tied=request.param)
    import_checkpoint("qwen3", tmp_path / "in", tmp_path / "out")
    return tmp_path / "out", request.param


def test_text_keeps_its_rows_and_the_mask_is_the_mean(imported, caplog):
    folder, tied = imported
    theirs = load_backbone(folder).transformer.state_dict()
    with caplog.at_level(logging.INFO):
        model = start(folder, tied=tied)
    assert "attends in both directions from now on" in caplog.text
    assert f"{KNOWN} are kept, {336 - KNOWN} have no counterpart" in caplog.text
    for name, value in model.state_dict().items():
        if name not in TABLES:
            assert torch.equal(value, theirs[name]), name
            continue
        old = theirs[name][:KNOWN]
        assert torch.equal(value[:KNOWN], old)
        torch.testing.assert_close(value[VOCAB.mask_token_id], old.mean(0))
        new = value[KNOWN + 2 :]
        error = (new.mean(0) - old.mean(0)) / old.std(0) * len(new) ** 0.5
        assert error.abs().max() < 4.5
        torch.testing.assert_close(new.std(0), old.std(0), rtol=0.2, atol=0)
    assert (model.embedding.head.weight is model.embedding.tokens.weight) == tied


def test_the_mask_begins_with_less_than_its_share_whatever_the_state(imported):
    folder, tied = imported
    model = start(folder, tied=tied)
    hidden = 30 * torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    text = torch.cat((torch.arange(KNOWN), torch.tensor([VOCAB.mask_token_id])))
    share = model.logits(hidden, text).softmax(-1)[:, -1]
    assert share.max() <= 1 / KNOWN


def test_text_alone_has_the_states_of_the_source_under_a_causal_mask(imported):
    folder, tied = imported
    ids = torch.randint(0, KNOWN, (1, 17), generator=torch.Generator().manual_seed(0))
    expected = load_backbone(folder)(ids)[0, :, :KNOWN]
    model = start(folder, tied=tied, is_causal=False)
    model.is_causal = True
    layout = model.segment_layout([17], torch.ones(17, dtype=torch.bool))
    places = torch.stack((torch.arange(17), *torch.zeros(2, 17).long()), 1)
    logits = model.logits(model(ids[0], places, layout))[:, :KNOWN]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_new_rows_follow_the_seed(imported):
    folder, tied = imported
    one, two = (start(folder, tied=tied).embedding.tokens.weight for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("stated", ["abc", "", "0", "-3", "1.5", "337", "9" * 5000])
def test_a_number_of_known_ids_that_cannot_be_is_named(tmp_path, stated):
    write_qwen(tmp_path / "in")
    import_checkpoint("qwen3", tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    save_file(load_file(path), path, metadata={NUM_KNOWN: stated})
    with pytest.raises(OmniError, match=r"has num_known_ids '.*from 1 to its 336 rows"):
        start(tmp_path / "out", tied=True)


@pytest.mark.parametrize(
    ("vocab", "words"),
    [
        (Vocab(TEXT + 1, {"speech": 400, "image": 64}, "released"), "has pad_token_id 300 but"),
        (Vocab(TEXT, {"speech": 400, "image": 64}), "set data.special_tokens: released"),
    ],
)
def test_another_vocabulary_is_refused(imported, vocab, words):
    folder, tied = imported
    with pytest.raises(OmniError, match=words):
        start(folder, tied=tied, vocab=vocab)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_dim": 16}, "head_dim is 24, not 16"),
        ({"qk_norm": False}, "qk_norm is True, not False"),
        ({"right_shift_logits": False}, "right_shift_logits is True, not False"),
    ],
)
def test_another_network_is_refused(imported, changes, words):
    folder, tied = imported
    with pytest.raises(OmniError, match=words):
        start(folder, tied=tied, **changes)


def test_a_bidirectional_start_does_not_become_causal(tmp_path):
    bidirectional = Transformer(VOCAB.size, [], **SHAPE, tie_embeddings=True)
    bidirectional.save_pretrained(tmp_path / "own")
    with pytest.raises(OmniError, match="is_causal is False, not True"):
        start(tmp_path / "own", tied=True, is_causal=True)


def test_a_causal_network_needs_shifted_logits():
    with pytest.raises(OmniError, match="is_causal is set without right_shift_logits"):
        Transformer(
            20, [], **{**SHAPE, "right_shift_logits": False}, tie_embeddings=True, is_causal=True
        )


def test_a_table_without_padding_rows_is_enough(tmp_path):
    write_qwen(tmp_path / "in", "qwen2", rows=KNOWN)
    write_tokenizer(tmp_path / "in", names=QWEN25_TOKENS)
    import_checkpoint("qwen2", tmp_path / "in", tmp_path / "out")
    shape = {"head_dim": None, "qk_norm": False, "qkv_bias": True}
    assert start(tmp_path / "out", tied=True, **shape).embedding.tokens.weight.isfinite().all()
