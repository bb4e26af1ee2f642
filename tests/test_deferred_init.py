"""A network built without memory begins with the weights of one that is built whole."""

from pathlib import Path

import pytest
import torch
from small_models import import_small_dream
from torch import nn

from lightning_omni.cli import build_cli
from lightning_omni.deferred_init import deferred_weights, deferring_constructor, initial_value
from lightning_omni.modules.initial_weights import load_initial_weights
from lightning_omni.nn.transformer import Transformer
from lightning_omni.vocab import Vocab

DEBUG = Path(__file__).parents[1] / "recipes/debug"
LEAST_SHARES = {  # of the weights that are on the meta device; norms of weights are computed
    "stage3": 1,
    "image_tokenizer": 1,
    "speech_tokenizer": 0.99,
    "speech_tokenizer_seanet": 0.5,
}


def whole_value(weight):
    value = torch.empty(weight.shape, dtype=weight.dtype)
    initial_value(weight)(value)
    return value


def built(name):
    torch.manual_seed(3)
    model = build_cli(["-c", str(DEBUG / f"{name}.yaml")], run=False, with_trainer=False).model
    return model, torch.get_rng_state()


@pytest.mark.parametrize("name", LEAST_SHARES)
def test_initial_values_buffers_and_the_generator_are_those_of_the_whole(name, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.cli.seed_everything", lambda *_, **__: 3)
    whole, state = built(name)
    with deferred_weights():
        deferred, state_after = built(name)
    assert torch.equal(state, state_after)
    wanted, shares = dict(whole.named_parameters()), {True: 0, False: 0}
    for key, weight in deferred.named_parameters():
        value = whole_value(weight) if weight.is_meta else weight
        assert torch.equal(value, wanted[key]), key
        if key.startswith(("backbone.", "tokenizer.")):
            shares[weight.is_meta] += weight.numel()
    assert shares[True] >= LEAST_SHARES[name] * sum(shares.values())
    buffers = dict(deferred.named_buffers())
    for key, buffer in whole.named_buffers():
        assert torch.equal(buffer, buffers[key]), key


@pytest.mark.parametrize("rows", [400, 336])  # the rows of the checkpoint, and others
def test_a_folder_s_weights_are_read_when_they_are_asked_for(tmp_path, rows):
    vocab = Vocab(300, {"speech": rows - 300 - 33, "image": 3}, "released")
    folder = import_small_dream(tmp_path, 336)
    shape = {"right_shift_logits": True}
    whole = small(vocab, **shape)
    with deferred_weights():
        deferred = small(vocab, **shape)
    for network in (whole, deferred):
        load_initial_weights(network, folder, vocab, seed=3)
    wanted = dict(whole.named_parameters())
    for key, weight in deferred.named_parameters():
        assert torch.equal(whole_value(weight), wanted[key]), key


def small(vocab, **changes):
    from small_models import QWEN_SHAPE

    return Transformer(vocab.size, [], **{**QWEN_SHAPE, **changes})


def test_what_reads_a_weight_makes_it_real():
    torch.manual_seed(0)
    wanted = nn.Embedding(5, 3, padding_idx=2).weight
    torch.manual_seed(0)
    with deferred_weights(), deferring_constructor():
        found = nn.Embedding(5, 3, padding_idx=2).weight
        truncated = nn.init.trunc_normal_(nn.Parameter(torch.empty(4, 4)), std=0.1)
        shifted = nn.init.ones_(nn.Parameter(torch.empty(3))).requires_grad_(False)
        shifted.add_(2.0)
        plain = torch.empty(3).fill_(7.0)
    assert torch.equal(found, wanted)
    assert 0 < truncated.abs().max() < 1  # asks where the weight is
    assert shifted.is_meta
    assert whole_value(shifted).tolist() == [3.0] * 3
    assert plain.tolist() == [7.0] * 3


def test_outside_of_the_context_nothing_changes():
    with deferring_constructor():
        assert not nn.Linear(2, 2).weight.is_meta
