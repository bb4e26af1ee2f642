"""Answers of a small network, whose holes grow or are as long as its head says."""

from dataclasses import replace

import pytest
import torch
from lightning_omni.generation.blank import Blank
from lightning_omni.generation.part_draft import TextDraft
from lightning_omni.nn.length_head import LengthHead
from lightning_omni.samplers.growth import Growth
from small_models import SMALL, sample_of

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.generation.canvas_builder import end_ids
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.generator import PartFiller
from lightning_omni.generation.history import replay
from lightning_omni.generation.lengths import LengthRule
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
ASKED = {
    "text": Part("text", text="a whale"),
    "image": Part("image", codes=tuple(range(16))),
    "speech": Part("speech", codes=tuple(16 * (i % 2) + i for i in range(12))),
}
CAPTION, SPOKEN = sample_of("caption", ASKED), sample_of("tts", ASKED)
SAMPLES = [
    CAPTION,
    replace(CAPTION, turns=(replace(CAPTION.turns[0], parts=(ASKED["text"],)), CAPTION.turns[1])),
]
GROW = Growth(start=0.5, masks=3, window=2, longest=24)


def filler(head=None):
    torch.manual_seed(0)
    template = Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads={})
    rules = {"caption/0": LengthRule(0.0, 6.0), "tts/0": LengthRule(0.0, 8.0)}
    backbone = Transformer(VOCAB.size, [], **SMALL).eval()
    with torch.no_grad():
        backbone.embedding.head.weight.mul_(100)  # no two places are equally sure
    return PartFiller(backbone, template, rules, head, codebooks=2, device=torch.device("cpu"))


def filled(samples, sampling, *, head=None, drafts=None):
    """What is recorded of each hole, and the passes of all its fillings as `of_all`."""
    records = [{} for _ in samples]
    filler(head).fill_part(
        samples,
        0,
        sampling,
        records,
        seeds=list(range(len(samples))),
        drafts=drafts or [None] * len(samples),
        on_step=None,
    )
    return [record["holes"]["0"] | {"of_all": record["forwards"]} for record in records]


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("refresh", [1, 4])
def test_an_answer_whose_hole_grows_is_the_same_in_a_batch(guidance, refresh):
    way = Sampling(
        grow=GROW, guidance_scale=guidance, refresh_every=refresh, temperature=1.0, trace=True
    )
    together = filled(SAMPLES, way)
    assert together[0]["positions"] > together[0]["began"]
    (alone,) = filled(SAMPLES[:1], way)
    assert {**together[0], "trace": None} == {**alone, "trace": None}
    for hole in together:
        masks = [VOCAB.mask_token_id] * hole["positions"]
        assert replay(hole["trace"], masks, mask_token_id=VOCAB.mask_token_id) == hole["ids"]


def test_every_forward_pass_of_growth_is_counted():
    events = []
    (hole,) = filler().holes.fill(
        SAMPLES[:1], 0, [Blank(3)], Sampling(grow=GROW), seeds=[0], on_step=events.append
    )
    grew = sum(e.grown is not None for e in events)
    assert len(hole["ids"]) == GROW.longest
    assert hole["steps"] >= hole["forwards"] == len(events) > grew == 7


def test_speech_and_drafted_text_do_not_grow():
    (said,) = filled([SPOKEN], Sampling(grow=replace(GROW, longest=99)))
    plain = filled([SPOKEN], Sampling())
    assert said == plain[0]
    draft = TextDraft.parse("a ___{2} on a mat")
    (drafted,) = filled([CAPTION], Sampling(grow=GROW), drafts=[draft])
    assert drafted["positions"] == filled([CAPTION], Sampling(), drafts=[draft])[0]["positions"]


def head_that_says(length):
    """A head that is certain of one length."""
    head = LengthHead(SMALL["dim"], 4, longest=40, ratio=1.0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.layers[-1].bias[length - 1] = 50.0
    return head


def lengths_of(sample, *, head=None, growth=1.0, **options):
    """Positions of the hole, and the passes it took to know them."""
    sampling = Sampling(**options)
    (found,) = filler(head).hole_lengths.of([sample], 0, sampling, growth=growth)
    return found


def test_a_hole_is_as_long_as_the_head_says_in_whole_frames_and_the_look_is_counted():
    head = head_that_says(5)
    assert lengths_of(CAPTION, head=head, length="head") == (5, 1)
    assert lengths_of(SPOKEN, head=head, length="head") == (6, 1)
    assert lengths_of(CAPTION, head=head, length="head", growth=1.5) == (8, 1)


def test_a_hole_that_may_grow_begins_with_a_share_and_one_that_did_not_do_with_all():
    assert lengths_of(CAPTION) == (6, 0)
    assert lengths_of(CAPTION, grow=GROW) == (3, 0)
    assert lengths_of(CAPTION, grow=GROW, growth=1.5) == (9, 0)
    assert lengths_of(SPOKEN, grow=GROW) == (8, 0)
    assert lengths_of(CAPTION, grow=GROW, head=head_that_says(5), length="head") == (3, 1)


def test_an_answer_behind_no_rule_has_a_length_by_the_head():
    stranger = replace(CAPTION, task="vqa")
    with pytest.raises(OmniError, match="not trained on task 'vqa'"):
        filled([stranger], Sampling())
    (hole,) = filled([stranger], Sampling(length="head"), head=head_that_says(5))
    assert any(i in end_ids(VOCAB) for i in hole["ids"]) == hole["closed"]


def test_looks_of_a_prediction_are_counted_too():
    assert lengths_of(CAPTION, length="predicted")[1] >= 1
    (hole,) = filled([CAPTION], Sampling(length="predicted"))
    assert hole["of_all"] > hole["forwards"]


def test_a_model_without_a_head_says_so():
    with pytest.raises(OmniError, match="has no length head"):
        filled([CAPTION], Sampling(length="head"))
