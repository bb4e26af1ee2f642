"""Lengths of responses that are given, and of texts that are lengthened before the first step."""

from dataclasses import replace

import pytest
import torch
from histories import replay_history
from small_generator import CODEBOOKS, RULES, VOCAB, generate, make_generator, request, text

from lightning_omni.data.transcripts import insert_transcript
from lightning_omni.errors import OmniError
from lightning_omni.generation import lengths
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.generator import ATTEMPTS
from lightning_omni.generation.lengths import LENGTHENING
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.remdm import ReMDM
from lightning_omni.types import Part

CAPTION, SPOKEN, PICTURE = request("caption"), request("tts"), request("t2i")
MIXED = [request("tqa"), CAPTION, request("vqa")]
"""Texts of 30, 6 and 12 positions by rule."""
LONGEST = 24
LENGTHENED = {6: [10, 15, 22, 24], 9: [13, 19, 24], 13: [19, 24], 20: [24]}
ADJUSTED = GenerationConfig(adjust_length=True)


@pytest.fixture
def short(monkeypatch):
    """Let texts, which the random network never ends, be lengthened up to 24 positions."""
    monkeypatch.setattr(lengths, "LONGEST", LONGEST)
    monkeypatch.setattr(lengths, "END_PROBABILITY", 2.0)


@pytest.fixture
def passes(monkeypatch):
    """Count the forward passes of the network."""
    seen, forward = [], Transformer.forward

    def counting(self, ids, *rest, **named):
        seen.append(len(ids))
        return forward(self, ids, *rest, **named)

    monkeypatch.setattr(Transformer, "forward", counting)
    return seen


@pytest.mark.parametrize("positions", [1, 2, 5, 9, 16])
def test_a_given_length_is_that_of_text_and_in_whole_frames_of_speech(positions):
    config = GenerationConfig(response_length=positions)
    (written,) = generate([CAPTION], config)
    (spoken,) = generate([SPOKEN], config)
    assert (written["positions"], written["attempts"]) == (positions, 1)
    assert spoken["positions"] == -(-positions // CODEBOOKS) * CODEBOOKS
    assert spoken["attempts"] == 1


def test_a_given_length_changes_nothing_of_an_image():
    assert generate([PICTURE], GenerationConfig(response_length=5)) == generate(
        [PICTURE], GenerationConfig()
    )


@pytest.mark.parametrize(
    ("sample", "part"),
    [
        (request("caption", text=text("a ___{2} on a mat")), 0),
        (request("caption", text=text("a ___")), 0),
        (request("tts", speech=Part("speech", codes=(0, 16, 1, 17), masked=frozenset({2, 3}))), 0),
        (insert_transcript(request("sqa")), 0),
    ],
    ids=["blank", "open end", "speech", "transcript"],
)
def test_a_given_length_changes_nothing_of_infills_and_transcripts(sample, part):
    given = generate([sample], GenerationConfig(response_length=3), part=part)
    assert given == generate([sample], GenerationConfig(), part=part)


@pytest.mark.parametrize("sample", [CAPTION, SPOKEN], ids=["text", "speech"])
def test_attempts_are_what_given_lengths_make_and_their_passes_are_summed(sample):
    base = RULES[f"{sample.task}/0"].base
    steps = [int(base * LENGTHENING**attempt) for attempt in range(ATTEMPTS)]
    alone = [generate([sample], GenerationConfig(response_length=n))[0] for n in steps]
    assert not any(one["ended"] for one in alone)
    (retried,) = generate([sample], GenerationConfig())
    assert retried["attempts"] == ATTEMPTS
    assert retried["forwards"] == sum(one["forwards"] for one in alone)
    assert retried == {**alone[-1], "attempts": ATTEMPTS, "forwards": retried["forwards"]}


def test_an_answer_without_a_rule_needs_a_given_length():
    stranger = replace(CAPTION, task="svqa")
    with pytest.raises(OmniError, match="not trained on task 'svqa', so the length of part 0"):
        generate([stranger], GenerationConfig())
    assert generate([stranger], GenerationConfig(response_length=4))[0]["positions"] == 4


@pytest.mark.parametrize("attempt", [0, 1])
def test_a_lengthened_answer_is_that_of_its_final_length(short, attempt):
    rules = {"caption/0": replace(RULES["caption/0"], base=RULES["caption/0"].base + 3 * attempt)}
    generator = make_generator(rules=rules)
    config = replace(ADJUSTED, num_steps=4, temperature=1.0, history=True)
    (found,) = generate([CAPTION], config, generator=generator)
    final = replace(config, adjust_length=False, response_length=LONGEST)
    (given,) = generate([CAPTION], final, generator=generator)
    looks = sum(
        len(LENGTHENED[int(rules["caption/0"].base * LENGTHENING**n)]) for n in range(ATTEMPTS)
    )
    assert found["forwards"] == ATTEMPTS * given["forwards"] + looks
    assert found == {**given, "forwards": found["forwards"], "attempts": ATTEMPTS}


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_interval": 4},
        {"num_steps": 3},
        {"num_steps": 6, "block_size": 4},
        {"isolate_prompt": True},
    ],
    ids=str,
)
def test_every_forward_pass_of_a_lone_answer_is_counted(short, passes, guidance, options):
    generator = make_generator(isolate_prompt=options.pop("isolate_prompt", False))
    config = replace(ADJUSTED, guidance_scale=guidance, temperature=1.0, **options)
    (found,) = generate([CAPTION], config, generator=generator)
    assert found["positions"] == LONGEST
    assert found["forwards"] == len(passes)
    passes.clear()
    plain = replace(config, adjust_length=False)
    assert generate([CAPTION], plain, generator=generator)[0]["forwards"] == len(passes)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("cache", [1, 4])
def test_a_lengthened_answer_is_the_same_in_a_batch(short, guidance, cache):
    config = replace(
        ADJUSTED, guidance_scale=guidance, cache_interval=cache, temperature=1.0, history=True
    )
    together = generate(MIXED, config)
    assert [one["positions"] for one in together] == [67, LONGEST, 27]
    for n, sample in enumerate(MIXED):
        (alone,) = generate([sample], config, seeds=[n])
        assert {**together[n], "history": None} == {**alone, "history": None}
        pairs = zip(together[n]["history"], alone["history"], strict=True)
        for ours, theirs in pairs:
            assert {**ours, "confidence": None} == {**theirs, "confidence": None}
    for one in together:
        masks = [VOCAB.mask_token_id] * one["positions"]
        assert (
            replay_history(one["history"], masks, mask_token_id=VOCAB.mask_token_id) == one["ids"]
        )


def test_a_sampler_that_remasks_runs_on_a_lengthened_response(short):
    config = replace(ADJUSTED, sampler=ReMDM(0.9, "rescale"), num_steps=8)
    together = generate(MIXED, config)
    for n, sample in enumerate(MIXED):
        assert generate([sample], config, seeds=[n]) == [together[n]]


@pytest.mark.parametrize(
    "sample",
    [
        SPOKEN,
        PICTURE,
        request("tts", speech=Part("speech", codes=(0, 16, 1, 17), masked=frozenset({2, 3}))),
        request("caption", text=text("a ___{2} on a mat")),
        request("caption", text=text("a ___ on a mat")),
        request("caption", text=text("a ___")),
        request("caption", text=text("___")),
        request("caption", text=text("___ ___")),
        request("caption", text=text("a cat")),
    ],
    ids=lambda sample: f"{sample.task} {sample.turns[-1].parts[0].text}",
)
def test_speech_images_and_infills_are_not_lengthened(short, sample):
    config = GenerationConfig(num_steps=4)
    assert generate([sample], replace(config, adjust_length=True)) == generate([sample], config)


def test_a_text_that_already_ends_is_not_lengthened(monkeypatch):
    monkeypatch.setattr(lengths, "END_PROBABILITY", 0.0)
    config = GenerationConfig(num_steps=4)
    assert generate(MIXED, replace(config, adjust_length=True)) == generate(MIXED, config)


@torch.inference_mode()
def test_the_transcript_is_lengthened_as_the_answer_is(short):
    sample = insert_transcript(request("sqa"))
    for part in (0, 1):
        (found,) = generate([sample], ADJUSTED, part=part)
        assert found["positions"] == LONGEST
