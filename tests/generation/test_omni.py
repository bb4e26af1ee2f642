"""An option that cannot change any answer of a call is refused, whoever else could use it."""

import pytest
from lightning_omni.generation.draft import Draft
from lightning_omni.generation.part_draft import ImageDraft, TextDraft
from lightning_omni.generation.unused_options import (
    check_used,
    check_ways,
    scope_of_samples,
    scope_of_tasks,
)
from lightning_omni.samplers.growth import Growth

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import MAX_SEED, Sampling
from lightning_omni.generation.omni import Omni
from lightning_omni.types import Part, Sample, Turn


def asked(*modalities, answer):
    """A sample whose request and unanswered answer have these parts."""
    user = Turn("user", tuple(Part(name) for name in modalities))
    return Sample("key", "chat", (user, Turn("assistant", tuple(map(Part, answer)))))


DRAW, DESCRIBE = asked("text", answer=["image"]), asked("image", answer=["text"])
SAY, ANSWER = asked("text", answer=["speech"]), asked("speech", answer=["text", "speech"])
GROW = Sampling(grow=Growth())


@pytest.mark.parametrize(
    ("sample", "draft", "way", "expected"),
    [
        (DRAW, {}, Sampling(guidance_scale={"text": 1.0, "image": 3.0}), "no request holds image"),
        (DRAW, {}, Sampling(guidance_scale={"speech": 0.0}), "no request holds speech"),
        (DRAW, {}, GROW, "grow is given but has no effect here"),
        (SAY, {}, GROW, "grow is given but has no effect here"),
        (DESCRIBE, {0: TextDraft.parse("a ___")}, GROW, "filled whole grow"),
        (DRAW, {}, Sampling(shift={"image": 2.0, "text": 0.3}), "shift.text is given"),
        (ANSWER, {0: TextDraft(("yes",))}, Sampling(shift={"text": 0.3}), "no text is filled"),
        (DRAW, {}, Sampling(length="longest"), "length is given"),
        (DESCRIBE, {0: TextDraft.parse("a ___")}, Sampling(length="predicted"), "length is given"),
        (DRAW, {}, Sampling(stop_at_end=False), "stop_at_end is given"),
    ],
)
def test_what_nothing_in_the_call_uses_is_refused(sample, draft, way, expected):
    with pytest.raises(OmniError, match=expected):
        check_used(way, scope_of_samples([sample], [draft]))


@pytest.mark.parametrize(
    ("samples", "drafts", "way"),
    [
        ([DRAW], [{}], Sampling(guidance_scale={"text": 3.0}, shift={"image": 2.0})),
        ([DRAW, DESCRIBE], [{}, {}], Sampling(guidance_scale={"image": 3.0}, grow=Growth())),
        ([DRAW, SAY], [{}, {}], Sampling(shift={"speech": 2.0}, length="longest")),
        ([ANSWER], [{1: ImageDraft((1,))}], GROW),
        ([DESCRIBE], [{0: TextDraft.parse("a ___")}], Sampling(shift=0.5, stop_at_end=False)),
        ([DRAW], [{0: ImageDraft((1, 2), frozenset({1}))}], Sampling(shift={"image": 2.0})),
    ],
)
def test_what_one_answer_of_the_call_uses_passes(samples, drafts, way):
    check_used(way, scope_of_samples(samples, drafts))


def test_a_way_over_tasks_must_be_used_by_one_of_them():
    ways = {"plain": Sampling(), "led": Sampling(guidance_scale={"image": 3.0})}
    check_ways(ways, ["t2i", "vqa"])
    with pytest.raises(OmniError, match=r"'led': guidance\.image is given"):
        check_ways(ways, ["t2i", "s2i"])
    check_used(GROW, scope_of_tasks(["s2i"]))  # speech may be written down first


def test_an_omni_refuses_it_for_one_answer_and_takes_it_for_a_batch():
    omni = Omni.shipped()
    draw = omni.ask("t2i", text="a whale")
    image = omni.generate("t2i", text="a whale", num_steps=1).image
    way = Sampling(guidance_scale={"image": 3.0}, num_steps=1)
    with pytest.raises(OmniError, match=r"guidance\.image"):
        omni.answer([draw], seed=0, sampling=way)
    with pytest.raises(OmniError, match="grow is given"):
        omni.generate("caption", image=image, draft=Draft(text="a ___"), grow=Growth())
    assert len(omni.answer([draw, omni.ask("caption", image=image)], seed=0, sampling=way)) == 2
    assert omni.answer([draw], seed=0, sampling=way, may_be_unused=True)
    omni.generate("s2i", speech=omni.generate("tts", text="x").speech, grow=Growth(), num_steps=1)


def test_every_seed_of_a_batch_is_one_that_generators_take():
    omni = Omni.shipped()
    draw = omni.ask("t2i", text="a whale")
    way = Sampling(num_steps=1, temperature=1.0)
    assert omni.answer([draw], seed=MAX_SEED, sampling=way)
    assert omni.answer([], seed=MAX_SEED) == []
    with pytest.raises(OmniError, match=f"seed is {MAX_SEED}, wanted 0 to {MAX_SEED - 1}"):
        omni.answer([draw, draw], seed=MAX_SEED, sampling=way)
