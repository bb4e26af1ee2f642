"""Lengths read off a network that knows where answers end."""

import pytest
import torch

from lightning_omni.data.template import Hole
from lightning_omni.generation import length_prediction
from lightning_omni.generation.canvas_builder import Grammar, pack_prompts
from lightning_omni.generation.length_prediction import predict_lengths
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Sequence
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 20, "image": 30})


def prompts_of(modality, lengths, before=3):
    index = VOCAB.modalities.index(modality)
    rendered = []
    for length in lengths:
        size = before + length
        places = [(i, 0, 0) for i in range(size)]
        no, holes = [False] * size, [Hole(modality, before, size)]
        ids = [1] * before + [VOCAB.mask_token_id] * length
        rendered.append((Sequence(ids, places, no, no, [index] * size, 0, "s"), holes))
    return rendered


def network_that_ends_at(ends, packed, monkeypatch):
    """Scores in which sample n has content before `ends[n]` and pads behind."""
    place = torch.cat([torch.arange(n) for n in packed.layout.lengths])
    sample = torch.arange(len(ends)).repeat_interleave(torch.tensor(packed.layout.lengths))

    def logits_at(where, allowed):
        is_behind = place[where] - 3 >= torch.tensor(ends)[sample[where]]
        is_pad = allowed == VOCAB.pad_token_id
        return torch.where(is_pad == is_behind[:, None], 20.0, 0.0)

    monkeypatch.setattr(length_prediction, "conditional", lambda *_, **__: lambda *_: logits_at)


@pytest.mark.parametrize(
    ("modality", "codebooks", "ends", "wanted"),
    [
        ("text", 1, [4, 0, 12], [5, 1, None]),
        ("speech", 1, [4, 7, 12], [5, 8, None]),
        ("speech", 2, [4, 8, 12], [5, 9, None]),
    ],
)
def test_a_hole_is_as_long_as_what_may_hold_content_and_the_end(
    modality, codebooks, ends, wanted, monkeypatch
):
    prompts = prompts_of(modality, [12, 12, 12])
    packed = pack_prompts(prompts, device=torch.device("cpu"))
    network_that_ends_at(ends, packed, monkeypatch)
    grammar = Grammar(VOCAB, TEXT, codebooks, device=torch.device("cpu"))
    assert predict_lengths(None, prompts, packed, grammar, VOCAB) == wanted
