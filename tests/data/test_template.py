from random import Random

import pytest
from small_models import as_lists, rendered_with, sample_of

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASKS_BY_NAME, task_named
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


def template(pads=3) -> Template:
    most = {"text": pads, "speech": pads}
    return Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads=most)


def sample(task) -> Sample:
    return sample_of(task, PARTS)


def render(task, part, **options):
    return as_lists(rendered_with(template(**options), sample(task), part))


PARTS_OF_NINE = [(task, i) for task in NINE for i in range(len(task_named(task).outputs))]


@pytest.mark.parametrize(("task", "part"), PARTS_OF_NINE)
def test_one_answer_part_can_be_masked_and_all_of_it_can(task, part):
    rendered = render(task, part)
    start = len(rendered.ids) - 1 - rendered.ids[::-1].index(VOCAB.special_id("<|assistant|>"))
    assert not any(rendered.maskable[:start])
    predicted = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
    pads = sum(rendered.is_tail_pad)
    modality = task_named(task).outputs[part]
    answer = PARTS[modality]
    want = TEXT.encode(answer.text) if answer.text else VOCAB.to_ids(modality, list(answer.codes))
    ends = {"text": [VOCAB.pad_token_id], "speech": [VOCAB.special_id("<|end_of_speech|>")]}
    assert predicted == want + ends.get(modality, []) + [VOCAB.pad_token_id] * pads


@pytest.mark.parametrize(("task", "part"), PARTS_OF_NINE)
def test_training_and_generation_lay_an_answer_out_alike(task, part):
    trained = render(task, part, pads=0)
    lengths = {"text": len(TEXT.encode("a green whale")) + 1, "speech": 7, "image": 16}
    length = lengths[task_named(task).outputs[part]]
    prompt, span = template().render_prompt(sample(task), part=part, length=length)
    assert as_lists(prompt).position_ids == trained.position_ids
    in_span = set(range(span.start, span.stop))
    assert in_span == {i for i, m in enumerate(trained.maskable) if m}
    for i, (a, b) in enumerate(zip(prompt.ids, trained.ids, strict=True)):
        assert a == (VOCAB.mask_token_id if i in in_span else b)


def test_every_part_of_an_answer_is_trained_equally_often():
    texts = 0
    for seed in range(400):
        rendered = template().render(sample("svqa"), rng=Random(seed))
        texts += VOCAB.modalities.index("text") in rendered.modality
    assert 160 < texts < 240


def test_a_spoken_answer_follows_the_text_already_given():
    prompt, span = template().render_prompt(sample("svqa"), part=1, length=8)
    assert span.modality == "speech"
    assert ",".join(map(str, TEXT.encode("a green whale"))) in ",".join(map(str, prompt.ids))


def test_a_text_answer_does_not_see_the_speech_that_will_follow():
    asked, _ = template().render_prompt(sample("svqa"), part=0, length=4)
    ids = asked.ids.tolist()
    answer = ids[ids.index(VOCAB.special_id("<|assistant|>")) :]
    assert VOCAB.special_id("<|begin_of_speech|>") not in answer


def test_each_turn_of_a_conversation_is_trained_with_what_came_before():
    def says(role, text):
        return Turn(role, (Part("text", text=text),))

    turns = (says("user", "a"), says("assistant", "b"), says("user", "c"), says("assistant", "d"))
    seen = set()
    for seed in range(20):
        rendered = template(0).render(Sample("key", "chat", turns), rng=Random(seed))
        predicted = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
        given = TEXT.decode([i for i in rendered.ids if i < TEXT.size])
        seen.add((TEXT.decode(predicted[:-1]), given))
    assert seen == {("b", "ab"), ("d", "abcd")}


def test_images_take_no_tail_pads():
    with pytest.raises(OmniError, match="max_tail_pads is given for image"):
        Template(VOCAB, TEXT, image_columns=4, codebooks=2, max_tail_pads={"image": 3})


def test_dropping_the_condition_keeps_the_instruction_and_the_answer():
    whole = template(0).render(sample("t2i"), rng=Random(0))
    bare = template(0).render(sample("t2i"), rng=Random(0), drop=("text",))
    instruction = TEXT.encode(task_named("t2i").instruction)
    assert ",".join(map(str, instruction)) in ",".join(map(str, bare.ids))
    assert len(whole.ids) - len(bare.ids) == len(TEXT.encode("a green whale"))
    assert sum(whole.maskable) == sum(bare.maskable)


def test_image_codes_know_their_row_and_column():
    rendered = as_lists(template().render(sample("t2i"), rng=Random(0)))
    grid = [p[1:] for p, m in zip(rendered.position_ids, rendered.maskable, strict=True) if m]
    assert grid == [(i // 4 + 1, i % 4 + 1) for i in range(16)]


def test_tail_pads_are_whole_speech_frames_and_marked():
    counts = set()
    for seed in range(20):
        rendered = template(3).render(sample("tts"), rng=Random(seed))
        counts.add(sum(rendered.is_tail_pad))
    assert counts == {0, 2, 4, 6}


def test_a_vocabulary_of_another_text_size_is_refused():
    vocab = Vocab(7, {"speech": 2, "image": 2})
    with pytest.raises(OmniError, match="text ranks have 1024"):
        Template(vocab, TEXT, image_columns=1, codebooks=1, max_tail_pads={})


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(OmniError, match="unknown task 'sing'; choose one of asr"):
        task_named("sing")
