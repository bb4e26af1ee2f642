"""The released layout, id by id."""

from importlib.util import find_spec
from random import Random

import numpy as np
import pytest
import torch
from small_models import as_lists, rendered_with, sample_of

from lightning_omni.data.make_template import make_template
from lightning_omni.data.released_template import ReleasedTemplate
from lightning_omni.generation.allowed_tokens import AllowedTokens
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.tasks import TASKS_BY_NAME, task_named
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

HAS_RANKS = find_spec("dashscope") is not None
TEXT = TextTokenizer("qwen" if HAS_RANKS else TextTokenizer().ranks)
VOCAB = Vocab(TEXT.size, {"speech": 16_384, "image": 8_192}, "released")
NINE = [name for name in TASKS_BY_NAME if name != "chat"]
PARTS = {
    "text": Part("text", text="a green whale"),
    "speech": Part("speech", codes=(5, 17, 2)),
    "image": Part("image", codes=tuple(range(16))),
}
START, END, FEED = "<|im_start|>", "<|im_end|>", "\n"
SPEECH = ["<|begin_of_audio|>", ("speech", 5), ("speech", 17), ("speech", 2), "<|end_of_audio|>"]
IMAGE = ["<|begin_of_image|>", *(("image", i) for i in range(16)), "<|end_of_image|>"]
LAYOUTS = {
    "asr": ["Convert the speech to text.\n", *SPEECH],
    "tts": ["Convert the text to speech.\na green whale"],
    "t2i": ["Generate an image based on the provided text description.\na green whale"],
    "caption": ["Describe the image.\n", *IMAGE],
    "vqa": ["a green whale\n", *IMAGE],
    "s2i": [*SPEECH],
    "svqa": [*SPEECH, FEED, *IMAGE],
    "sqa": [*SPEECH],
    "tqa": ["a green whale"],
}
ANSWERS = {
    ("text",): ["a green whale"],
    ("speech",): SPEECH,
    ("image",): IMAGE,
    ("text", "speech"): ["a green whale\n", *SPEECH],
}


def ids_of(pieces):
    ids = []
    for piece in pieces:
        if isinstance(piece, tuple):
            ids += VOCAB.to_ids(piece[0], [piece[1]])
        else:
            is_special = piece.startswith("<|")
            ids += [VOCAB.special_id(piece)] if is_special else TEXT.encode(piece)
    return ids


def turn(role, pieces):
    return [START, role, FEED, *pieces, END, FEED]


def template(pads=0) -> ReleasedTemplate:
    most = {"text": pads, "speech": pads}
    made = make_template(VOCAB, TEXT, image_columns=4, codebooks=1, max_tail_pads=most)
    assert isinstance(made, ReleasedTemplate)
    return made


def sample(task) -> Sample:
    return sample_of(task, PARTS)


def render(task, part, pads=0):
    return as_lists(rendered_with(template(pads), sample(task), part))


@pytest.mark.parametrize("task", NINE)
def test_a_whole_answer_is_laid_out_as_released(task):
    answers = task_named(task).outputs
    said = task_named(task).released_system
    system = turn("system", [said]) if said else []
    whole = [*system, *turn("user", LAYOUTS[task]), *turn("assistant", ANSWERS[answers])]
    assert render(task, len(answers) - 1).ids == ids_of(whole)


@pytest.mark.skipif(not HAS_RANKS, reason="dashscope is not installed")
def test_a_text_question_has_the_ids_that_the_release_gives_it():
    turns = (
        Turn("user", (Part("text", text="Hello world"),)),
        Turn("assistant", (Part("text", text="Hello"),)),
    )
    rendered = as_lists(template().render(Sample("key", "tqa", turns), rng=Random(0)))
    asked = [151644, 872, 198, 9707, 1879, 151645, 198, 151644, 77091, 198]
    assert rendered.ids == [*asked, 9707, 151645, 198]
    assert rendered.maskable == [False] * 10 + [True] * 3


@pytest.mark.skipif(not HAS_RANKS, reason="dashscope is not installed")
def test_a_full_stop_and_the_line_feed_behind_it_are_one_token_as_released():
    ids = render("asr", 0).ids
    assert ids[3:9] == [12012, 279, 8806, 311, 1467, 624]
    assert ids[9] == 151684


@pytest.mark.parametrize("task", NINE)
def test_what_a_turn_ends_with_is_predicted_and_pads_follow_it(task):
    declared = task_named(task)
    rendered = render(task, len(declared.outputs) - 1, pads=3)
    predicted = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
    pads = sum(rendered.is_tail_pad)
    if declared.outputs[-1] == "image":
        assert predicted == VOCAB.to_ids("image", list(range(16)))
    else:
        assert predicted[len(predicted) - pads :] == [VOCAB.pad_token_id] * pads
        assert predicted[-2 - pads : len(predicted) - pads] == ids_of([END, FEED])


@pytest.mark.parametrize(
    ("task", "part"), [(t, i) for t in NINE for i in range(len(task_named(t).outputs))]
)
def test_training_and_generation_lay_an_answer_out_alike(task, part):
    trained = render(task, part)
    length = sum(trained.maskable)
    prompt, span = template().render_prompt(sample(task), part=part, length=length)
    assert as_lists(prompt).position_ids == trained.position_ids
    in_span = set(range(span.start, span.stop))
    assert in_span == {i for i, m in enumerate(trained.maskable) if m}
    for i, (a, b) in enumerate(zip(prompt.ids, trained.ids, strict=True)):
        assert a == (VOCAB.mask_token_id if i in in_span else b)


@pytest.mark.parametrize("task", NINE)
def test_every_answer_can_be_generated_up_to_its_end(task):
    allowed = AllowedTokens(VOCAB, TEXT, 1, device=torch.device("cpu"))
    for part, modality in enumerate(task_named(task).outputs):
        rendered = render(task, part)
        (row,) = allowed.allowed_set_indices(modality, ResponseSpan(1))
        hole = [i for i, m in zip(rendered.ids, rendered.maskable, strict=True) if m]
        ends = [n for n, i in enumerate(hole) if i in VOCAB.all_end_ids()]
        assert bool(ends) == (modality != "image")
        upto = hole[: ends[0] + 1] if ends else hole
        assert set(upto) <= set(allowed.allowed[row].tolist())


def test_a_text_before_speech_loses_the_line_feed_that_led_to_it():
    hole = ids_of(["a green whale\n"])
    assert template().decode_answer_text(hole) == "a green whale"


@pytest.mark.parametrize(("task", "modality"), [("asr", "speech"), ("vqa", "image")])
def test_masked_codes_of_a_request_are_masks(task, modality):
    plain = PARTS[modality]
    hidden = Part(modality, codes=plain.codes, masked=frozenset({0, 2}))
    before, after = (
        template().render_prompt(sample_of(task, {**PARTS, modality: p}), part=0, length=3)[0].ids
        for p in (plain, hidden)
    )
    changed = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    assert [before[i] for i in sorted(changed)] == VOCAB.to_ids(
        modality, [plain.codes[0], plain.codes[2]]
    )
    assert {after[i] for i in changed} == {VOCAB.mask_token_id}


def test_dropping_the_condition_keeps_the_instruction():
    bare = template().render(sample("t2i"), rng=Random(0), drop=("text",))
    user = turn("user", [f"{task_named('t2i').released_instruction}\n"])
    assert bare.ids[: len(ids_of(user))].tolist() == ids_of(user)


def test_a_conversation_keeps_its_earlier_turns_whole():
    def says(role, text):
        return Turn(role, (Part("text", text=text),))

    turns = (says("system", "s"), says("user", "a"), says("assistant", "b"))
    rendered = as_lists(template().render(Sample("key", "chat", turns), rng=Random(0)))
    assert rendered.ids == ids_of(
        [*turn("system", ["s"]), *turn("user", ["a"]), *turn("assistant", ["b"])]
    )


@pytest.mark.parametrize("task", [t for t in NINE if "speech" in task_named(t).inputs])
def test_speech_that_an_encoder_heard_is_one_context_token_a_frame(task):
    frames = np.arange(30, dtype=np.float16).reshape(5, 6)
    heard = {**PARTS, "speech": Part("speech", codes=(5, 17, 2), features=frames)}
    as_codes, as_frames = (sample_of(task, parts) for parts in (PARTS, heard))
    prompts = [
        as_lists(template().render_prompt(s, part=0, length=3)[0]) for s in (as_codes, as_frames)
    ]
    context = ["<|begin_of_audio|>", *["<|context_of_audio|>"] * 5, "<|end_of_audio|>"]
    expected, codes = ids_of(context), ids_of(SPEECH)
    at = next(i for i in range(len(prompts[0].ids)) if prompts[0].ids[i : i + 5] == codes)
    assert prompts[1].ids == prompts[0].ids[:at] + expected + prompts[0].ids[at + 5 :]
    ((first, given),) = prompts[1].features
    assert first == at + 1
    assert given is frames
    assert prompts[0].features == ()
    rendered = template().render(as_frames, rng=Random(0), drop=("speech",))
    assert rendered.features == ()
