"""Which of several fillings a part gets, whatever the network."""

import pytest
import torch
from lightning_omni.generation.part_draft import TextDraft

from lightning_omni.data.template import Template
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.generator import MAX_GROWTHS, PartFiller
from lightning_omni.generation.lengths import LengthRule
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
WORD = TEXT.encode(" cat")[0]
SAMPLE = Sample("key", "caption", (Turn("user", ()), Turn("assistant", (Part("text"),))))


class Toy:
    """Fills every gap with one word, again and again; likes texts of one length."""

    def __init__(self, favourite: int) -> None:
        self.favourite = favourite

    def fill(self, samples, part, blanks, sampling, *, seeds, on_step):
        return [
            {
                "steps": blank.num_open,
                "forwards": blank.num_open,
                "ids": [blank.given.get(i, WORD) for i in range(blank.length)],
            }
            for blank in blanks
        ]

    def text_log_probs(self, sample, part, texts, *, start, precision):
        assert all(text[:start] == texts[0][:start] for text in texts)
        return [-abs(len(text) - self.favourite) for text in texts]


def filled(draft, *, favourite, room=8):
    template = Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads={})
    rules = {"caption/0": LengthRule(0.0, float(room))}
    backbone = torch.nn.Identity()
    filler = PartFiller(backbone, template, rules, None, codebooks=2, device=torch.device("cpu"))
    filler.holes = Toy(favourite)
    record = {}
    draft = None if draft is None else TextDraft.parse(draft)
    (sample,) = filler.fill_part(
        [SAMPLE], 0, Sampling(), [record], seeds=[0], drafts=[draft], on_step=None
    )
    return sample.turns[-1].parts[0].text, record["holes"]["0"]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_gap_gets_the_length_whose_whole_text_is_likeliest(length):
    given = len(TEXT.encode("a")) + len(TEXT.encode(" on a mat")) + 1
    text, hole = filled("a ___ on a mat", favourite=given + length)
    assert text == "a" + " cat" * length + " on a mat"
    assert (hole["open"], hole["gaps"], hole["closed"]) == (length, [length], True)
    assert [tried["gaps"] for tried in hole["tried"]] == [[1], [2], [3], [4]]
    assert hole["forwards"] == 4 + 1


def test_a_stated_length_is_taken_without_a_search():
    text, hole = filled("a ___{2} on a mat", favourite=99)
    assert text == "a cat cat on a mat"
    assert "tried" not in hole


def test_a_gap_at_the_end_grows_until_there_is_no_more_room_to_give():
    _, hole = filled("a ___", favourite=0)
    assert (hole["grown"], hole["closed"]) == (MAX_GROWTHS, False)
    assert hole["positions"] > 8


def test_a_whole_part_costs_nothing():
    text, hole = filled("a mat", favourite=0)
    assert text == "a mat"
    assert (hole["open"], hole["steps"], hole["forwards"], hole["closed"]) == (0, 0, 0, True)
