"""The model as one object: configs by modality, answers as samples, lengths of its texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_omni import GenerationConfig, Infill, Omni
from lightning_omni.argument_checks import MAX_SEED
from lightning_omni.data.transcripts import insert_transcript
from lightning_omni.errors import OmniError
from lightning_omni.generation.lengths import LengthRule
from lightning_omni.generation.model_folder import read_model_folder
from lightning_omni.generation.request import check_has_answer_to_generate
from lightning_omni.pretrained import FOLDER
from lightning_omni.types import Part, Turn

CAPTION = "a green whale on a pink background"
TASKS = ("t2i", "tts", "asr", "caption", "vqa", "s2i", "sqa", "svqa", "tqa")


@pytest.fixture(scope="module")
def omni():
    return Omni.bundled()


@pytest.fixture(scope="module")
def inputs(omni):
    """An input of each modality."""
    return {
        "text": "what color is the background",
        "image": omni.generate("t2i", text=CAPTION).image,
        "speech": omni.generate("tts", text="what is three plus five").speech,
    }


@pytest.fixture(scope="module")
def samples(omni, inputs):
    """One request of every task."""
    takes = {
        "asr": ("speech",),
        "caption": ("image",),
        "vqa": ("text", "image"),
        "s2i": ("speech",),
        "sqa": ("speech",),
        "svqa": ("speech", "image"),
    }
    return {
        task: omni.encode_request(task, **{m: inputs[m] for m in takes.get(task, ("text",))})
        for task in TASKS
    }


def parts_of(answer):
    return answer.record["parts"]


def test_an_answer_holds_its_sample_in_tokens(omni, samples):
    for task, sample in samples.items():
        (answer,) = omni.answer([sample], seed=0, config=GenerationConfig(num_steps=4))
        assert answer.sample.turns[:-1] == sample.turns[:-1]
        assert (answer.sample.task, answer.sample.meta) == (task, sample.meta)
        contents = [p for p in answer.sample.turns[-1].parts if not p.is_transcript]
        assert [p.modality for p in contents] == [p.modality for p in sample.turns[-1].parts]
        for part, content in zip(contents, answer.parts, strict=True):
            assert not part.is_empty
            assert not part.masked
            if part.modality == "text":
                assert part.text.strip() == content
            elif part.modality == "image":
                codes = torch.tensor([part.codes])
                pixels = omni.image_tokenizer.decode(codes, rows=omni.template.image_columns)[0]
                assert np.asarray(content).shape == (*pixels.shape[1:], 3)
            else:
                with torch.inference_mode():
                    wave = omni.speech_tokenizer.decode(torch.tensor([part.codes]))[0]
                assert (wave.numpy() == content).all()
        transcripts = [p.text for p in answer.sample.turns[-1].parts if p.is_transcript]
        assert [text.strip() for text in transcripts] == [answer.transcript] * len(transcripts)


def test_an_answered_sample_is_complete_and_can_be_answered_again(omni, samples):
    config = GenerationConfig(temperature=1.0, num_steps=4)
    for sample in samples.values():
        (first,) = omni.answer([sample], seed=5, config=config)
        with pytest.raises(OmniError, match="is left to be generated"):
            omni.answer([first.sample], seed=5, config=config)
        (again,) = omni.answer([first.sample.unanswered()], seed=5, config=config)
        assert again.sample == first.sample
        assert parts_of(again) == parts_of(first)


def test_a_part_of_an_answer_is_generated_again_beside_the_others(omni, samples):
    (first,) = omni.answer([samples["sqa"]], seed=0)
    *others, speech = first.sample.turns[-1].parts
    masked = replace(speech, masked=frozenset(range(3, 9)))
    sample = replace(
        first.sample, turns=(first.sample.turns[0], Turn("assistant", (*others, masked)))
    )
    check_has_answer_to_generate(sample)
    (again,) = omni.answer([sample], seed=1, config=GenerationConfig(temperature=1.0))
    assert again.sample.turns[-1].parts[:-1] == tuple(others)
    assert (again.text, again.transcript) == (first.text, first.transcript)
    codes = again.sample.turns[-1].parts[-1].codes
    assert {i for i, (a, b) in enumerate(zip(codes, speech.codes, strict=True)) if a != b} <= set(
        range(3, 9)
    )
    assert [part["masked"] for part in parts_of(again).values()] == [0, 0, 6]


def test_a_given_transcript_is_kept_and_costs_nothing(omni, samples):
    sample = insert_transcript(samples["sqa"], "what is two plus two")
    (answer,) = omni.answer([sample], seed=0)
    assert answer.transcript == "what is two plus two"
    assert parts_of(answer)["transcript"]["forwards"] == 0
    assert answer.sample.turns[-1].parts[0] == sample.turns[-1].parts[0]


def test_a_config_for_every_modality_is_the_same_as_one_config(omni, samples):
    config = GenerationConfig(num_steps=5, temperature=0.7)
    every = list(samples.values())
    by_modality = dict.fromkeys(("text", "image", "speech"), config)
    one, other = (omni.answer(every, seed=0, config=c) for c in (config, by_modality))
    for a, b in zip(one, other, strict=True):
        assert parts_of(a) == parts_of(b)


def test_a_config_of_one_modality_is_that_of_its_parts_only(omni, samples):
    plain = omni.answer([samples["sqa"]], seed=0)[0]
    by_modality = {
        "text": GenerationConfig(num_steps=2),
        "speech": GenerationConfig(num_steps=7, timestep_shift=3.0),
    }
    (answer,) = omni.answer([samples["sqa"]], seed=0, config=by_modality)
    assert {name: part["steps"] for name, part in parts_of(answer).items()} == {
        "transcript": 2,
        "0": 2,
        "1": 7,
    }
    (spoken,) = omni.answer([samples["sqa"]], seed=0, config={"speech": by_modality["speech"]})
    assert parts_of(spoken)["0"] == parts_of(plain)["0"]
    assert parts_of(spoken)["transcript"] == parts_of(plain)["transcript"]
    assert parts_of(spoken)["1"]["steps"] == 7
    (drawn,) = omni.answer([samples["t2i"]], seed=0, config={"speech": by_modality["speech"]})
    assert parts_of(drawn) == parts_of(omni.answer([samples["t2i"]], seed=0)[0])


def test_a_batch_of_all_tasks_with_configs_by_modality_is_as_if_each_were_alone(omni, samples):
    configs = {
        "text": GenerationConfig(num_steps=4, temperature=0.8, adjust_length=True),
        "speech": GenerationConfig(num_steps=5, block_size=8),
    }
    every = list(samples.values())
    together = omni.answer(every, seed=3, config=configs)
    for i, sample in enumerate(every):
        (alone,) = omni.answer([sample], seed=3 + i, config=configs)
        assert parts_of(alone) == parts_of(together[i])
        assert alone.sample == together[i].sample
        assert alone.record["seed"] == together[i].record["seed"] == 3 + i


def test_options_are_on_top_of_a_config(omni, inputs):
    asked = {"task": "t2i", "text": "a fish", "seed": 1}
    expected = parts_of(omni.generate(**asked, num_steps=3, temperature=1.0))
    one = GenerationConfig(num_steps=9, temperature=1.0)
    assert parts_of(omni.generate(**asked, config=one, num_steps=3)) == expected
    named = {"image": one}
    assert parts_of(omni.generate(**asked, config=named, num_steps=3)) == expected
    own = GenerationConfig(num_steps=3, temperature=1.0)
    assert parts_of(omni.generate(**asked, config=own)) == expected


def test_options_are_for_all_answer_parts_also_of_modalities_that_a_config_does_not_name(omni):
    asked = {"task": "t2i", "text": "a fish", "seed": 1}
    config = {"text": GenerationConfig(num_steps=9)}
    expected = parts_of(omni.generate(**asked, num_steps=3))
    assert parts_of(omni.generate(**asked, config=config, num_steps=3)) == expected


def test_options_under_the_names_of_the_release_before_are_understood(omni):
    asked = {"task": "t2i", "text": "a fish", "num_steps": 4}
    old = {"quality": "fast", "refresh_every": 2, "shift": 2.0, "trace": True}
    new = {"preset": "fast", "cache_interval": 2, "timestep_shift": 2.0, "history": True}
    one, other = (omni.generate(**asked, **options) for options in (old, new))
    assert parts_of(one) == parts_of(other)
    assert parts_of(one)["0"]["history"]
    with pytest.raises(OmniError, match="the option 'length' no longer exists"):
        omni.generate(**asked, length="predicted")


def test_a_record_sums_the_forward_passes_of_its_parts(omni, samples):
    for answer in omni.answer(list(samples.values()), seed=0):
        parts = parts_of(answer).values()
        assert answer.record["forwards"] == sum(part["forwards"] for part in parts)


@pytest.mark.parametrize("task", ["sqa", "tts", "s2i"])
def test_a_given_length_is_that_of_answers_but_not_of_transcripts_and_images(omni, samples, task):
    config = GenerationConfig(response_length=9)
    (answer,) = omni.answer([samples[task]], seed=0, config=config)
    (plain,) = omni.answer([samples[task]], seed=0)
    for name, part in parts_of(answer).items():
        if name == "transcript" or part["modality"] == "image":
            assert part == parts_of(plain)[name]
        else:
            assert (part["positions"], part["attempts"]) == (9, 1)


@pytest.mark.parametrize("base", [2.0, 5.0])
def test_a_caption_that_is_too_short_at_first_is_lengthened_until_it_fits(omni, inputs, base):
    model = read_model_folder(FOLDER)
    short = Omni(replace(model, lengths={**model.lengths, "caption/0": LengthRule(0.0, base)}))
    long = omni.generate("caption", image=inputs["image"])
    answer = short.generate("caption", image=inputs["image"], adjust_length=True)
    assert answer.text == long.text == CAPTION
    part = parts_of(answer)["0"]
    assert (part["attempts"], part["ended"]) == (1, True)
    assert part["positions"] > base
    retried = short.generate("caption", image=inputs["image"])
    assert parts_of(retried)["0"]["attempts"] > 1 or retried.text != CAPTION  # squeezed, and ended
    same = omni.generate("caption", image=inputs["image"], response_length=part["positions"])
    assert parts_of(same)["0"]["ids"] == part["ids"]
    assert parts_of(same)["0"]["forwards"] < part["forwards"]


def test_adjusting_lengths_changes_nothing_of_texts_that_fit(omni, samples):
    config = GenerationConfig(adjust_length=True)
    for task in ("caption", "vqa", "tqa"):
        (plain,), (adjusted,) = (
            omni.answer([samples[task]], seed=0, config=c) for c in (GenerationConfig(), config)
        )
        assert adjusted.text == plain.text
        if parts_of(adjusted)["0"]["positions"] == parts_of(plain)["0"]["positions"]:
            assert parts_of(adjusted) == parts_of(plain)


def test_answers_that_leave_nothing_to_generate_are_refused(omni, samples):
    caption = samples["caption"]

    def with_answer(*parts, role="assistant"):
        return replace(caption, turns=(caption.turns[0], Turn(role, parts)))

    for sample, expected in (
        (with_answer(Part("text", text="a cat")), r"nothing .* is left to be generated"),
        (with_answer(), "has no parts"),
        (with_answer(Part("text"), role="user"), "does not end with an assistant turn"),
        (with_answer(Part("text", codes=(1,))), "part 0 of the answer is text but holds codes"),
        (
            with_answer(Part("image", codes=(1,) * 64, masked=frozenset({64}))),
            "part 0 of the answer masks code 64 but has 64 codes",
        ),
    ):
        with pytest.raises(OmniError, match=expected):
            omni.answer([sample], seed=0)
        with pytest.raises(OmniError, match=expected):
            omni.answer([caption, sample], seed=0)


def test_every_seed_of_a_batch_is_one_that_generators_take(omni):
    draw = omni.encode_request("t2i", text="a whale")
    config = GenerationConfig(num_steps=1, temperature=1.0)
    assert omni.answer([draw], seed=MAX_SEED, config=config)
    assert omni.answer([], seed=MAX_SEED) == []
    with pytest.raises(OmniError, match=f"seed is {MAX_SEED}, wanted 0 to {MAX_SEED - 1}"):
        omni.answer([draw, draw], seed=MAX_SEED, config=config)


def test_an_infill_is_not_of_a_modality_that_the_task_does_not_answer_with(omni):
    with pytest.raises(OmniError, match="answers with image, but the infill holds text"):
        omni.encode_request("t2i", text="x", infill=Infill(text="a ___"))
