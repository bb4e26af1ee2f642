from dataclasses import replace
from random import Random

import pytest

from lightning_omni.data.template import Template
from lightning_omni.data.transcripts import check_transcript_tasks, with_transcript
from lightning_omni.errors import OmniError
from lightning_omni.generation.lengths import fit_length_rules, length_rule_name, source_length
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
TEMPLATE = Template(VOCAB, TEXT, image_columns=4, codebooks=1, max_tail_pads={"text": 2})
SAID = "what is two plus three"


def spoken_question() -> Sample:
    asked = Part("speech", codes=(1, 2, 3, 4))
    answer = (Part("text", text="it is five"), Part("speech", codes=(5, 6)))
    turns = (Turn("user", (asked,)), Turn("assistant", answer))
    return Sample("key", "sqa", turns, {"text": SAID})


def text_of(ids: list[int]) -> str:
    return TEXT.decode([i for i in ids if i < TEXT.size])


def test_the_transcript_is_the_first_part_of_the_answer_and_survives_the_shard():
    sample = with_transcript(spoken_question())
    assert [p.is_transcript for p in sample.turns[-1].parts] == [True, False, False]
    assert Sample.from_json("key", sample.to_json()) == sample
    assert with_transcript(sample) == sample


def test_each_link_of_the_chain_is_trained_with_those_before_it_given():
    sample = with_transcript(spoken_question())
    seen = set()
    for seed in range(30):
        rendered = TEMPLATE.render(sample, rng=Random(seed))
        hole = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
        given = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if not m]
        seen.add((text_of(hole), text_of(given)))
    assert seen == {
        (SAID, "answer "),
        ("it is five", "answer " + SAID),
        ("", "answer " + SAID + "it is five"),
    }


def test_without_the_condition_neither_request_nor_transcript_is_seen():
    sample = with_transcript(spoken_question())
    bare, _ = TEMPLATE.render_prompt(sample, part=1, length=4, drop=("speech",))
    assert text_of(bare.ids) == "answer "
    spoken, _ = TEMPLATE.render_prompt(sample, part=2, length=4, drop=("speech",))
    assert text_of(spoken.ids) == "answer it is five"


def test_lengths_of_a_transcript_follow_the_speech_and_of_the_answer_its_own_text():
    sample = with_transcript(spoken_question())
    assert [length_rule_name(sample, i) for i in range(3)] == ["sqa/transcript", "sqa/0", "sqa/1"]
    assert [source_length(sample, i) for i in range(3)] == [4, 0, len("it is five")]
    assert sorted(fit_length_rules([sample], TEMPLATE)) == ["sqa/0", "sqa/1", "sqa/transcript"]


def test_a_sample_without_a_transcript_is_named():
    with pytest.raises(OmniError, match="sample 'key' of sqa has no transcript"):
        with_transcript(replace(spoken_question(), meta={}))


@pytest.mark.parametrize("task", ["t2i", "asr", "vqa"])
def test_only_tasks_that_are_asked_aloud_are_transcribed(task):
    with pytest.raises(OmniError, match=f"transcribe_first names '{task}'"):
        check_transcript_tasks([task])
