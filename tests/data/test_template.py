from random import Random

import pytest

from lightning_omni.data.tasks import TASKS_BY_NAME, task_named
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
NINE = [name for name in TASKS_BY_NAME if name != "chat"]
PARTS = {
    "text": Part("text", text="a green whale"),
    "speech": Part("speech", codes=(1, 17, 2, 18, 3, 19)),
    "image": Part("image", codes=tuple(range(16))),
}


def template(max_tail_pads=3) -> Template:
    return Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads=max_tail_pads)


def sample(task) -> Sample:
    declared = task_named(task)
    turns = (
        Turn("user", tuple(PARTS[m] for m in declared.asks)),
        Turn("assistant", tuple(PARTS[m] for m in declared.answers)),
    )
    return Sample("key", task, turns)


@pytest.mark.parametrize("task", NINE)
def test_only_the_answer_can_be_masked_and_all_of_it_can(task):
    rendered = template().render(sample(task), rng=Random(0))
    answers = task_named(task).answers
    start = len(rendered.ids) - 1 - rendered.ids[::-1].index(VOCAB.special("<|assistant|>"))
    assert not any(rendered.maskable[:start])
    predicted = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
    for modality in answers:
        part = PARTS[modality]
        want = TEXT.encode(part.text) if part.text else VOCAB.to_ids(modality, list(part.codes))
        text = ",".join(map(str, predicted))
        assert ",".join(map(str, want)) in text


@pytest.mark.parametrize("task", NINE)
def test_training_and_generation_lay_an_answer_out_alike(task):
    whole = sample(task)
    trained = template(max_tail_pads=0).render(whole, rng=Random(0))
    lengths = [
        {"text": len(TEXT.encode("a green whale")) + 1, "speech": 7, "image": 16}[m]
        for m in task_named(task).answers
    ]
    asked, holes = template().render_prompt(whole, part=0, lengths=lengths)
    assert asked.position_ids == trained.position_ids
    in_hole = {i for hole in holes for i in range(hole.start, hole.stop)}
    assert in_hole == {i for i, m in enumerate(trained.maskable) if m}
    for i, (a, b) in enumerate(zip(asked.ids, trained.ids, strict=True)):
        assert a == (VOCAB.mask_token_id if i in in_hole else b)


def test_a_spoken_answer_follows_the_text_already_given():
    asked, holes = template().render_prompt(sample("svqa"), part=1, lengths=[8])
    assert [h.modality for h in holes] == ["speech"]
    assert ",".join(map(str, TEXT.encode("a green whale"))) in ",".join(map(str, asked.ids))


def test_dropping_the_condition_keeps_the_instruction_and_the_answer():
    whole = template(0).render(sample("t2i"), rng=Random(0))
    bare = template(0).render(sample("t2i"), rng=Random(0), drop_condition=True)
    instruction = TEXT.encode(task_named("t2i").instruction)
    assert ",".join(map(str, instruction)) in ",".join(map(str, bare.ids))
    assert len(whole.ids) - len(bare.ids) == len(TEXT.encode("a green whale"))
    assert sum(whole.maskable) == sum(bare.maskable)


def test_image_codes_know_their_row_and_column():
    rendered = template().render(sample("t2i"), rng=Random(0))
    grid = [p[1:] for p, m in zip(rendered.position_ids, rendered.maskable, strict=True) if m]
    assert grid == [(i // 4 + 1, i % 4 + 1) for i in range(16)]


def test_tail_pads_are_whole_speech_frames_and_marked():
    counts = set()
    for seed in range(20):
        rendered = template(3).render(sample("tts"), rng=Random(seed))
        counts.add(sum(rendered.is_tail_pad))
    assert counts == {0, 2, 4, 6}


def test_a_vocabulary_of_another_text_size_is_refused():
    with pytest.raises(OmniError, match="text ranks have 1024"):
        Template(
            Vocab(7, {"speech": 2, "image": 2}), TEXT, image_columns=1, codebooks=1, max_tail_pads=0
        )


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(OmniError, match="unknown task 'sing'; choose one of asr"):
        task_named("sing")
