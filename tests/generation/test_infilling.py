"""Drafts through the whole model: what is given stays, what is open is filled."""

import numpy as np
import pytest
from lightning_omni.generation.draft import Draft
from lightning_omni.generation.part_draft import ImageDraft, TextDraft
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.generation.omni import Omni
from lightning_omni.pretrained import FOLDER
from lightning_omni.types import Part, Sample, Turn

CAPTION = "a green whale on a pink background"


@pytest.fixture(scope="module")
def omni():
    return Omni.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def whale(omni):
    return omni.generate("t2i", text=CAPTION).image


@pytest.fixture(scope="module")
def said(omni):
    return omni.generate("tts", text=CAPTION).speech


def left_half():
    mask = Image.new("L", (4, 4))
    mask.paste(255, (0, 0, 2, 4))
    return mask


def only_hole(answer):
    (hole,) = (h for name, h in answer.record["holes"].items() if name != "transcript")
    return hole


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("more", [{}, {"refresh_every": 4}, {"block_size": 8}], ids=str)
def test_only_open_codes_of_a_picture_change(omni, whale, guidance, more):
    draft = Draft(image=whale, mask=left_half())
    read = omni.read_draft(draft)["image"]
    drawn = omni.generate(
        "t2i", text="a red car on a blue background", draft=draft, guidance_scale=guidance, **more
    )
    hole = only_hole(drawn)
    given = omni.vocab.to_ids("image", list(read.codes))
    for place, (old, new) in enumerate(zip(given, hole["ids"], strict=True)):
        assert old == new or place in read.open_places
    assert given != hole["ids"]
    assert hole["open"] == 32
    assert hole["steps"] <= 32
    own, made = np.asarray(whale), np.asarray(drawn.image)
    assert (own[:, 32:] == made[:, 32:]).all()
    assert (own[:, :32] != made[:, :32]).any()


def test_only_open_frames_of_speech_change(omni, said):
    other = CAPTION.replace("green", "yellow")
    again = omni.generate("tts", text=other, draft=Draft(speech=said, times=[(0.4, 0.8)]))
    is_changed = said != again.speech
    assert not is_changed[: round(0.4 * 16000)].any()
    assert not is_changed[round(0.8 * 16000) :].any()
    assert is_changed.any()
    assert only_hole(again)["open"] == 10
    assert only_hole(again)["closed"]


def test_words_are_found_with_their_number_of_tokens(omni, whale):
    draft = Draft(text="a ___ on a pink background")
    answer = omni.generate("caption", image=whale, draft=draft)
    assert answer.text == CAPTION
    assert only_hole(answer)["open"] == len(omni.text.encode(" green whale"))


def test_a_text_may_go_on_where_its_draft_ends(omni, whale):
    assert omni.generate("caption", image=whale, draft=Draft(text="a green ___")).text == CAPTION


def test_a_given_answer_is_only_spoken(omni):
    asked = omni.generate("tts", text="what is three plus five").speech
    answer = omni.generate("sqa", speech=asked, draft=Draft(text="it is seven"))
    assert answer.text == "it is seven"
    assert omni.generate("asr", speech=answer.speech).text == "it is seven"
    assert answer.record["holes"]["0"]["open"] == answer.record["holes"]["0"]["forwards"] == 0


def test_drafts_and_whole_answers_share_a_batch_as_if_each_were_alone(omni, whale):
    samples = [omni.ask("caption", image=whale) for _ in range(3)]
    drafts = [{}, {0: TextDraft.parse("___ whale on a ___ background")}, {}]
    together = omni.answer(samples, seed=0, drafts=drafts)
    for i, answer in enumerate(together):
        alone = omni.complete(samples[i], drafts[i], seed=i)
        assert only_hole(alone)["ids"] == only_hole(answer)["ids"]


def test_the_same_seed_gives_the_same_answer(omni, whale):
    asked = {"text": CAPTION, "draft": Draft(image=whale, mask=left_half()), "temperature": 1.0}
    one, two, three = (omni.generate("t2i", seed=seed, **asked) for seed in (1, 1, 2))
    assert only_hole(one)["ids"] == only_hole(two)["ids"] != only_hole(three)["ids"]


def test_an_answer_of_any_parts_is_completed(omni, whale, said):
    read = omni.read_draft(
        Draft(image=whale, mask=left_half(), speech=said, times=[(0.4, 0.8), (2.0, 2.2)])
    )
    kinds = ("text", "image", "speech", "text", "image")
    turns = (
        Turn("user", (Part("text", text="draw a green whale"),)),
        Turn("assistant", tuple(Part(kind) for kind in kinds)),
    )
    chat = Sample("key", "chat", turns)
    drafts = {0: TextDraft.parse("here ___ is"), 1: read["image"], 2: read["speech"]}
    with pytest.raises(OmniError, match="the length of part 3 \\(text\\) is not known"):
        omni.complete(chat, drafts)
    answer = omni.complete(chat, {**drafts, 3: TextDraft.parse("and ___")})
    assert [type(part) for part in answer.parts] == [str, Image.Image, np.ndarray, str, Image.Image]
    assert answer.parts[0].startswith("here ")
    assert [hole["open"] for hole in answer.record["holes"].values()][1:3] == [32, 15]
    assert answer.image is answer.parts[4]


@pytest.mark.parametrize(
    ("wave", "expected"),
    [
        (np.zeros((2, 16000)), r"has the shape \(2, 16000\), wanted mono"),
        (np.zeros(0), "lasts 0.000 s"),
        (np.zeros(10), "lasts 0.001 s"),
        (np.zeros(16000 * 61), "lasts 61.0 s"),
        (np.full(16000, np.nan), "not finite"),
    ],
    ids=["stereo", "empty", "short", "long", "nan"],
)
def test_samples_are_checked_as_files_are(omni, wave, expected):
    for given in (
        {"speech": wave},
        {"text": "x", "draft": Draft(speech=wave, times=[(0, 0.0005)])},
    ):
        with pytest.raises(OmniError, match=expected):
            omni.generate("asr" if "speech" in given else "tts", **given)


def test_words_that_are_no_choice_are_refused(omni):
    for name, known in (("quality", "fast"), ("precision", "float32"), ("length", "fitted")):
        with pytest.raises(OmniError, match=f"{name} is 'odd', wanted one of {known}"):
            omni.generate("t2i", text="x", **{name: "odd"})


def test_hidden_codes_of_a_request_are_masks_and_stay_so(omni, whale, said):
    half = omni.ask("caption", image=whale, mask=left_half())
    (part,) = half.turns[0].parts
    prompt, (hole,) = omni.template.render_prompt(half, part=0, length=4)
    masks = [i for i, token in enumerate(prompt.ids) if token == omni.vocab.mask_token_id]
    assert len(part.hidden) == 32
    assert masks[-4:] == list(range(hole.start, hole.stop))
    assert len(masks) == 36
    answer = omni.answer([half], seed=0)[0]
    assert 0 < only_hole(answer)["forwards"] <= only_hole(answer)["steps"]
    heard = omni.generate("asr", speech=said, times=[(0.0, len(said) / 16000)])
    assert heard.text != omni.generate("asr", speech=said).text


def test_nothing_open_and_superfluous_drafts_are_refused(omni, whale, said):
    for task, given, draft, expected in (
        ("caption", {"image": whale}, Draft(text="a whale"), "nothing to be filled"),
        ("caption", {"image": whale}, Draft(text=" "), "text is empty"),
        ("caption", {"image": whale}, Draft(text="a ___ <|mask|>"), "special token"),
        ("t2i", {"text": "x"}, Draft(image=whale), "nothing to be filled"),
        ("t2i", {"text": "x"}, Draft(image=whale, mask=Image.new("L", (9, 9))), "mask is empty"),
        ("tts", {"text": "x"}, Draft(speech=said, times=[(1, 99)]), "not within the speech"),
        ("tts", {"text": "x"}, Draft(text="a ___"), "the draft holds text"),
    ):
        with pytest.raises(OmniError, match=expected):
            omni.generate(task, draft=draft, **given)
    with pytest.raises(OmniError, match="mask is given without the image"):
        omni.generate("asr", speech=said, mask=left_half())


def test_codes_alone_make_a_draft_too(omni, whale):
    codes = omni.ask("caption", image=whale).turns[0].parts[0].codes
    question = omni.ask("t2i", text=CAPTION)
    drawn = omni.complete(question, {0: ImageDraft(codes, frozenset({0, 63}))})
    assert only_hole(drawn)["open"] == 2
