"""Each law of the splits stops a build that breaks it."""

import pytest

from data_prep.collection import Collection
from data_prep.emojiworld.splits import HoldOut
from data_prep.leak_checks import HeldOutContent, check_splits
from data_prep.media_file import MediaFile
from data_prep.samples import image_part, make_sample, make_turn, speech_part, text_part
from lightning_omni.errors import OmniError

RULES = HeldOutContent(
    hold_out=HoldOut(frozenset({("ink", "cat", "red")})),
    styles=frozenset({"fluent"}),
    voices=frozenset({"awb"}),
    text_only_facts=frozenset({"what is one plus one"}),
    silent_objects=frozenset({"snail"}),
)


def picture(key):
    return MediaFile(key, "image", "png", {}, lambda: b"")


def sound(key):
    return MediaFile(key, "speech", "flac", {}, lambda: b"")


def turns(request, answer):
    return make_turn("user", request), make_turn("assistant", answer)


FACT = make_sample(
    "tqa",
    *turns(text_part("what is one plus one"), text_part("two")),
    meta={"fact": "what is one plus one"},
)


def drawing(caption, key, **meta):
    medium = picture(key)
    return make_sample("t2i", *turns(text_part(caption), image_part(medium)), meta=meta), medium


def reading(sentence, key, **meta):
    medium = sound(key)
    return make_sample("asr", *turns(speech_part(medium), text_part(sentence)), meta=meta), medium


def collection(*entries):
    made = Collection()
    made.add_sample("train", FACT)
    for split, (sample, *media) in entries:
        made.add_sample(split, sample, *media)
    return made


def test_a_clean_collection_passes():
    check_splits(
        collection(
            ("train", drawing("a blue cat", "a", keys=[["ink", "cat", "blue"]], style="noto")),
            ("test_comp", drawing("a red cat", "b", keys=[["ink", "cat", "red"]])),
            ("test_style", drawing("a dog", "c", style="fluent")),
            ("test_voice", reading("hello there", "d", voice="awb")),
        ),
        RULES,
    )


@pytest.mark.parametrize("split", ["train", "val", "test_iid"])
@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (drawing("a red cat", "a", keys=[["ink", "cat", "red"]]), "no held-out combination"),
        (drawing("a cat", "a", style="fluent"), "no held-out style"),
        (reading("hello", "a", voice="awb"), "no held-out voice"),
        (reading("hello", "a", answer_voice="awb"), "no held-out voice"),
        (reading("what is one plus one", "a", fact="what is one plus one"), "no text-only fact"),
    ],
)
def test_what_is_held_out_may_not_be_where_training_looks(split, entry, rule):
    with pytest.raises(OmniError, match=rule):
        check_splits(collection((split, entry)), RULES)


def test_training_contains_no_spoken_prompt_for_a_silent_object():
    asked, drawn = sound("s"), picture("p")
    sides = turns(speech_part(asked), image_part(drawn))
    sample = make_sample("s2i", *sides, meta={"objects": ["snail"]})
    with pytest.raises(OmniError, match="no spoken prompt for a silent object"):
        check_splits(collection(("train", (sample, asked, drawn))), RULES)


@pytest.mark.parametrize(
    ("split", "entry", "rule"),
    [
        ("test_iid", reading("a cat", "b"), "'a cat' is a sentence of test_iid and of training"),
        ("val", drawing("a dog", "a"), "image a is in train and in val"),
    ],
    ids=["sentence", "picture"],
)
def test_what_is_trained_on_may_not_be_tested(split, entry, rule):
    with pytest.raises(OmniError, match=rule):
        check_splits(collection(("train", drawing("A cat!", "a")), (split, entry)), RULES)


def test_a_text_only_fact_must_be_read_in_training():
    with pytest.raises(OmniError, match="does not contain the text-only fact"):
        check_splits(Collection(), RULES)
