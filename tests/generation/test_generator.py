"""Which of several candidates a part gets, whatever the network."""

from dataclasses import replace

import pytest
import torch
from small_generator import RULES, TEXT, VOCAB, generate, make_generator, request, text

from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.decode import decode_response
from lightning_omni.generation.generator import ATTEMPTS, PartGenerator
from lightning_omni.generation.lengths import LengthRule
from lightning_omni.types import Part

WORD = TEXT.encode(" cat")[0]
ROOM = 8


class Toy(PartGenerator):
    """Fills every blank with one word, again and again; likes texts of one length."""

    favourite = 0

    def _run_reverse_process(self, samples, part, spans, config, *, seeds, on_step):
        parts = [sample.turns[-1].parts[part] for sample in samples]
        ids = [tuple(span.fixed.get(i, WORD) for i in range(span.length)) for span in spans]
        return [
            replace(
                decode_response(self.template, own, span, filled),
                steps=span.num_masked,
                forwards=span.num_masked,
            )
            for own, span, filled in zip(parts, spans, ids, strict=True)
        ]

    def _text_log_probs(self, sample, part, texts, *, start, precision):
        assert all(own[:start] == texts[0][:start] for own in texts)
        return [-abs(len(own) - self.favourite) for own in texts]


def filled(content, *, favourite):
    generator = make_generator(Toy, rules={"caption/0": LengthRule(0.0, float(ROOM))})
    generator.favourite = favourite
    sample = request("caption", text=text(content))
    (found,) = generator.generate([sample], 0, GenerationConfig(), seeds=[0])
    return found.part.text, found.to_json()


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_blank_gets_the_length_whose_whole_text_is_likeliest(length):
    given = len(TEXT.encode("a")) + len(TEXT.encode(" on a mat")) + 1
    content, record = filled("a ___ on a mat", favourite=given + length)
    assert content == "a" + " cat" * length + " on a mat"
    assert (record["masked"], record["blanks"], record["ended"]) == (length, [length], True)
    assert [tried["blanks"] for tried in record["candidates"]] == [[1], [2], [3], [4]]
    assert record["forwards"] == 4 + 1


def test_a_stated_length_is_taken_without_a_search():
    content, record = filled("a ___{2} on a mat", favourite=99)
    assert content == "a cat cat on a mat"
    assert "candidates" not in record


def test_a_blank_at_the_end_grows_with_every_attempt_until_the_last():
    _, record = filled("a ___", favourite=0)
    assert (record["attempts"], record["ended"]) == (ATTEMPTS, False)
    assert record["positions"] > ROOM
    rest = ROOM - len(TEXT.encode("a"))
    assert record["forwards"] == rest + int(rest * 1.5) + int(rest * 2.25)


def test_a_complete_part_costs_nothing():
    content, record = filled("a mat", favourite=0)
    assert content == "a mat"
    assert (record["masked"], record["steps"], record["forwards"]) == (0, 0, 0)
    assert (record["ended"], record["attempts"]) == (True, 1)


def masked_speech(*masked):
    return Part("speech", codes=(8, 19, 1, 17, 5, 20), masked=frozenset(masked))


@pytest.mark.parametrize(
    "part",
    [
        masked_speech(0),
        masked_speech(2, 3),
        masked_speech(0, 1, 2, 3, 4, 5),
        Part("image", codes=tuple(range(16)), masked=frozenset({0, 7, 15})),
        Part("image", codes=tuple(range(16)), masked=frozenset(range(16))),
    ],
    ids=lambda part: f"{part.modality} {sorted(part.masked)}",
)
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.0}, {"block_size": 2}], ids=str)
def test_unmasked_codes_stay_and_masked_ones_are_generated(part, options):
    task = {"speech": "tts", "image": "t2i"}[part.modality]
    sample = request(task, **{part.modality: part})
    config = GenerationConfig(temperature=1.0, **options)
    (found,) = make_generator().generate([sample], 0, config, seeds=[0])
    assert found.part.masked == frozenset()
    assert len(found.part.codes) == len(part.codes)
    for i, (old, new) in enumerate(zip(part.codes, found.part.codes, strict=True)):
        assert i in part.masked or old == new
    record = found.to_json()
    assert (record["masked"], record["attempts"], record["ended"]) == (len(part.masked), 1, True)
    assert found.part.codes != part.codes


@pytest.mark.parametrize("masked", [(0,), (2, 3), tuple(range(6))])
def test_a_request_with_masked_codes_is_not_one_with_the_codes(masked):
    """Masks of the request stay masks; what they hide has no influence."""
    asr = request("asr")

    def asked(codes, masked):
        user = replace(
            asr.turns[0],
            parts=(Part("speech", codes=codes, masked=frozenset(masked)),),
        )
        return replace(asr, turns=(user, asr.turns[1]))

    one, other = (3, 19, 1, 17, 5, 20), [8, 24, 9, 25, 10, 26]
    for i in range(6):
        if i not in masked:
            other[i] = one[i]
    config = GenerationConfig(response_length=6, temperature=1.0, history=True)
    hidden, same, shown = (
        generate([sample], config)
        for sample in (asked(one, masked), asked(tuple(other), masked), asked(one, ()))
    )
    assert hidden == same
    assert hidden[0]["history"] != shown[0]["history"]


@pytest.mark.parametrize("options", [{}, {"cache_interval": 3}, {"guidance_scale": 1.0}], ids=str)
def test_infills_and_whole_texts_share_a_batch_as_if_each_were_alone(options):
    texts = ("", "a ___ on a ___", "a cat", "a ___", "___{3} whale", "")
    samples = [request("caption", text=text(own)) for own in texts]
    config = GenerationConfig(temperature=1.0, **options)
    together = generate(samples, config)
    for n, sample in enumerate(samples):
        (alone,) = generate([sample], config, seeds=[n])
        for record in (alone, together[n]):
            for tried in record.get("candidates", ()):
                tried["log_prob"] = pytest.approx(tried["log_prob"], abs=0.01)
        assert alone["ids"] == together[n]["ids"]
        for name in set(alone) - {"candidates"}:
            assert alone[name] == together[n][name]


def test_infilled_media_share_a_batch_as_if_each_were_alone():
    parts = [masked_speech(0), Part("speech"), masked_speech(2, 3), masked_speech(*range(6))]
    samples = [request("tts", speech=own) for own in parts]
    config = GenerationConfig(temperature=1.0)
    together = generate(samples, config)
    for n, sample in enumerate(samples):
        assert generate([sample], config, seeds=[n]) == [together[n]]


def test_the_network_runs_without_masks_left_in_any_response():
    config = GenerationConfig(temperature=1.0, num_steps=3)
    for task in ("caption", "tts", "t2i", "vqa"):
        (record,) = generate([request(task)], config)
        assert VOCAB.mask_token_id not in record["ids"]
        assert RULES.keys() >= {f"{task}/0"} or task == "t2i"


@torch.inference_mode()
def test_candidates_are_ranked_by_the_log_probability_of_their_text():
    generator = make_generator()
    sample = request("caption", text=text("a ___ whale"))
    (found,) = generate([sample], GenerationConfig(), generator=generator)
    best = max(found["candidates"], key=lambda tried: tried["log_prob"])
    assert best["blanks"] == found["blanks"]
