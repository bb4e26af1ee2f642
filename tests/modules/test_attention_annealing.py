"""A causal backbone is trained on next tokens, and one that starts from it may anneal its mask."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from modules.test_shifted import SIZES, batch_of
from small_models import QWEN_SHAPE

from lightning_omni.diffusion.forward_process import ForwardProcess
from lightning_omni.diffusion.next_token import next_token_batch
from lightning_omni.diffusion.schedule import Linear
from lightning_omni.errors import OmniError
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.transformer import Transformer

LENGTHS = (7, 4, 9)


def module(*, anneal=0, compiles=False, **changes):
    torch.manual_seed(0)
    shape = {**QWEN_SHAPE, "right_shift_logits": True, **changes}
    return MaskedDiffusionModule(
        vocab=SIZES,
        backbone=partial(Transformer, **shape),
        code_feature_dims={},
        forward_process=ForwardProcess({m: Linear() for m in SIZES}),
        modality_weight=dict.fromkeys(SIZES, 1.0),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        weight_decay=0.0,
        warmup_steps=1,
        total_steps=10,
        final_lr_share=0.1,
        noise_seed=1,
        anneal_attention_steps=anneal,
        compile_blocks=compiles,
    )


@pytest.fixture
def batch():
    """Three segments, of each of which the first two tokens are the request."""
    ids = torch.randint(
        0, SIZES["text"], (sum(LENGTHS),), generator=torch.Generator().manual_seed(0)
    )
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    every, answer = batch_of(ids, positions), positions >= 2
    return replace(
        every,
        maskable=answer,
        is_answer=answer,
        answer_positions=answer.nonzero().squeeze(1),
        num_maskable=int(answer.sum()),
    )


def nll_by_hand(model, batch):
    """-log p of every answer token, segment by segment, each cut before the token."""
    found = []
    for start, stop in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
        for end in range(int(start) + 2, int(stop)):
            ids = batch.ids[start : end + 1]
            layout = model.backbone.segment_layout([len(ids)], torch.ones(len(ids)).bool())
            states = model.backbone(ids, batch.position_ids[start : end + 1], layout)
            scores = model.backbone.logits(states[-1:])
            scores[:, model.vocab.mask_token_id] = -torch.inf
            found.append(F.cross_entropy(scores, batch.ids[end : end + 1]))
    return torch.stack(found)


@torch.no_grad()
def test_the_loss_of_a_causal_backbone_is_that_of_the_next_token(batch):
    model = module(is_causal=True)
    noisy = model._noisy_batch(batch)
    states = model._final_states(batch, noisy)
    table = model.backbone.embedding.output_embedding()
    loss, nll = model.objective(states, table, batch, noisy)
    wanted = nll_by_hand(model, batch)
    torch.testing.assert_close(nll[: len(wanted)], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, wanted.mean(), atol=1e-5, rtol=0)
    nats, tokens, _ = model.nelbo(batch)
    assert tokens.tolist() == [n - 2 for n in LENGTHS]
    by_segment = torch.stack([part.sum() for part in wanted.split(tokens.tolist())])
    torch.testing.assert_close(nats.float(), by_segment, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_causal_backbone_does_not_see_what_comes_later(batch):
    model = module(is_causal=True)
    noisy = next_token_batch(batch)
    before = model._final_states(batch, noisy)
    last = batch.cu_seqlens[1:].long() - 1
    changed = replace(noisy, x_t=noisy.x_t.index_fill(0, last, 5))
    torch.testing.assert_close(model._final_states(batch, changed), before)


def visible_at(model, batch, step, monkeypatch):
    monkeypatch.setattr(MaskedDiffusionModule, "global_step", step)
    mask = model._annealed_segments(batch).mask
    return None if mask is None else mask.visible


def test_attention_goes_from_causal_to_bidirectional_in_so_many_steps(batch, monkeypatch):
    model, length = module(anneal=20), max(batch.lengths)
    causal = torch.ones(length, length).tril().bool()
    assert torch.equal(visible_at(model, batch, 0, monkeypatch), causal)
    above = causal.logical_not()
    shares = []
    for step in range(1, 20):
        visible = visible_at(model, batch, step, monkeypatch)
        assert visible[causal].all()
        shares.append(float(visible[above].float().mean()))
    error = (torch.tensor(shares) - torch.arange(1, 20) / 20).abs() * int(above.sum()) ** 0.5
    assert error.max() < 0.5 * 4.5
    assert visible_at(model, batch, 20, monkeypatch) is None
    one, again = (visible_at(model, batch, 10, monkeypatch) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, visible_at(model, batch, 11, monkeypatch))


@torch.no_grad()
def test_the_first_annealed_step_has_the_states_of_the_causal_backbone(batch, monkeypatch):
    model, causal = module(anneal=20), module(is_causal=True)
    monkeypatch.setattr(MaskedDiffusionModule, "global_step", 0)
    noisy = model._noisy_batch(batch)
    annealed = model._final_states(batch, noisy, model._annealed_segments(batch))
    torch.testing.assert_close(annealed, causal._final_states(batch, noisy))
    assert not torch.allclose(annealed, model._final_states(batch, noisy), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_causal": True}, "anneal_attention_steps is 3 and backbone.is_causal is set"),
        (
            {"isolate_prompt": True, "right_shift_logits": False},
            "anneal_attention_steps is 3 and backbone.isolate_prompt is set",
        ),
        ({"compiles": True}, "anneal_attention_steps is 3 and compile_blocks is set"),
    ],
)
def test_annealing_is_refused_where_it_changes_nothing_or_no_mask_is_taken(changes, words):
    with pytest.raises(OmniError, match=words):
        module(anneal=3, **changes)
