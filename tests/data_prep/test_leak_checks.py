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
FACT = make_sample(
    "tqa",
    make_turn("user", text_part("what is one plus one")),
    make_turn("assistant", text_part("two")),
    meta={"fact": "what is one plus one"},
)


def picture(key):
    return MediaFile(key, "image", "png", {}, lambda: b"")


def sound(key):
    return MediaFile(key, "speech", "flac", {}, lambda: b"")


def drawing(caption, key, **meta):
    medium = picture(key)
    return make_sample(
        "t2i",
        make_turn("user", text_part(caption)),
        make_turn("assistant", image_part(medium)),
        meta=meta,
    ), medium


def reading(sentence, key, **meta):
    medium = sound(key)
    return make_sample(
        "asr",
        make_turn("user", speech_part(medium)),
        make_turn("assistant", text_part(sentence)),
        meta=meta,
    ), medium


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
    sample = make_sample(
        "s2i",
        make_turn("user", speech_part(asked)),
        make_turn("assistant", image_part(drawn)),
        meta={"objects": ["snail"]},
    )
    with pytest.raises(OmniError, match="no spoken prompt for a silent object"):
        check_splits(collection(("train", (sample, asked, drawn))), RULES)


def test_a_test_sentence_must_not_be_a_training_text():
    entries = [("train", drawing("A cat!", "a")), ("test_iid", reading("a cat", "b"))]
    with pytest.raises(OmniError, match="'a cat' is a sentence of test_iid and of training"):
        check_splits(collection(*entries), RULES)


def test_a_picture_must_not_be_in_two_splits():
    entries = [("train", drawing("a cat", "same")), ("val", drawing("a dog", "same"))]
    with pytest.raises(OmniError, match="image same is in train and in val"):
        check_splits(collection(*entries), RULES)


def test_a_text_only_fact_must_be_read_in_training():
    with pytest.raises(OmniError, match="does not contain the text-only fact"):
        check_splits(Collection(), RULES)
