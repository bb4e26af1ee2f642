"""Only the trainable rows of an embedding table learn, whatever the optimizer does."""

import copy

import pytest
import torch
from small_models import SMALL

from lightning_omni.errors import OmniError
from lightning_omni.nn.adapters import (
    Lora,
    base_name,
    make_rows_trainable,
    merge_adapters,
    merge_trainable_rows,
)
from lightning_omni.nn.embedding import OmniEmbedding
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.optimizer import decay_groups

ROWS, START = 20, 13


def embedding(tied):
    torch.manual_seed(0)
    return OmniEmbedding(ROWS, 8, code_spans=[[14, 4, 3]], tie_embeddings=tied)


def used(model, ids):
    return model.logits(model.embed(ids))


@pytest.mark.parametrize("tied", [False, True])
def test_a_split_table_is_used_as_the_whole_one_and_becomes_it_again(tied):
    plain, split = embedding(tied), embedding(tied)
    make_rows_trainable(split, START)
    ids = torch.arange(ROWS)
    assert torch.equal(used(plain, ids), used(split, ids))
    again = copy.deepcopy(split)
    merge_trainable_rows(again)
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[n]) for n, v in again.state_dict().items())
    assert (again.head.weight is again.tokens.weight) == tied
    merge_trainable_rows(again)  # ordinary tables stay as they are


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_last_rows_learn_and_no_decay_touches_the_others(tied):
    model = embedding(tied)
    make_rows_trainable(model, START)
    before = {n: t.weight.clone() for n, t in (("tokens", model.tokens), ("head", model.head))}
    for parameter in model.spans.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.AdamW(decay_groups(model, 0.5), lr=0.1)
    used(model, torch.arange(ROWS)).square().sum().backward()
    optimizer.step()
    states = sum(s["exp_avg"].numel() for s in optimizer.state.values())
    assert states == (1 if tied else 2) * (ROWS - START) * 8
    for name, table in (("tokens", model.tokens), ("head", model.head)):
        assert torch.equal(table.weight[:START], before[name][:START])
        assert (table.weight[START:] != before[name][START:]).any(1).all()
    assert torch.equal(model.tokens.weight, model.head.weight) == tied


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_adapters_and_rows_are_merged_into_plain_weights(tied):
    pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = {**SMALL, "tie_embeddings": tied}
    model = Transformer(ROWS, [], **settings)
    names = model.state_dict().keys()
    Lora(rank=2, alpha=4.0, trainable_rows_from=START).adapt(model)
    assert {base_name(n) for n in model.state_dict()} - {None} == names
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.1)
    plain = merge_adapters(model)
    assert plain.state_dict().keys() == names
    ids, position_ids = torch.arange(ROWS), torch.arange(ROWS)[:, None].expand(-1, 3)
    layout = model.segment_layout([ROWS], ids < 0)
    expected, ours = (m.logits(m(ids, position_ids, layout)) for m in (model, plain))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (plain.embedding.head.weight is plain.embedding.tokens.weight) == tied


@pytest.mark.parametrize("start", [0, ROWS])
def test_rows_that_are_not_there_are_refused(start):
    with pytest.raises(
        OmniError, match=f"trainable_rows_from is {start}, wanted an id from 1 to {ROWS - 1}"
    ):
        make_rows_trainable(embedding(tied=False), start)
