"""Infilling through the whole model: what is given stays, what is masked is generated."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.request import Infill
from lightning_omni.types import Part, Sample, Turn

CAPTION = "a green whale on a pink background"


@pytest.fixture(scope="module")
def omni():
    return Omni.bundled()


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


def only_part(answer):
    (part,) = (p for name, p in answer.record["parts"].items() if name != "transcript")
    return part


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("more", [{}, {"cache_interval": 4}, {"block_size": 8}], ids=str)
def test_only_masked_codes_of_a_picture_change(omni, whale, guidance, more):
    infill = Infill(image=whale, mask=left_half())
    asked = {"text": "a red car on a blue background", "infill": infill}
    (own,) = omni.encode_request("t2i", **asked).turns[-1].parts
    drawn = omni.generate("t2i", **asked, guidance_scale=guidance, **more)
    part = only_part(drawn)
    given = omni.template.vocab.to_ids("image", list(own.codes))
    for position, (old, new) in enumerate(zip(given, part["ids"], strict=True)):
        assert old == new or position in own.masked
    assert given != part["ids"]
    assert part["masked"] == 32
    assert part["steps"] <= 32
    before, after = np.asarray(whale), np.asarray(drawn.image)
    assert (before[:, 32:] == after[:, 32:]).all()
    assert (before[:, :32] != after[:, :32]).any()
    assert drawn.parts == (drawn.image,)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (50, 97)])
def test_a_picture_of_the_user_keeps_its_pixels_at_the_models_size(omni, whale, mode, size):
    own = whale.convert(mode).resize(size)
    kept = omni.generate("t2i", text="x", infill=Infill(image=own, mask=left_half()), num_steps=1)
    right = omni.generate(
        "t2i",
        text="x",
        infill=Infill(image=own, mask=left_half().transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        num_steps=1,
    )
    one, other = np.asarray(kept.image), np.asarray(right.image)
    assert one.shape == other.shape == (64, 64, 3)
    whole = np.concatenate([other[:, :16], one[:, 48:]], axis=1)
    side = min(size)
    left, top = ((length - side) // 2 for length in size)
    cut = own.convert("RGB").crop((left, top, left + side, top + side))
    expected = np.asarray(cut.resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    expected = np.concatenate([expected[:, :16], expected[:, 48:]], axis=1)
    if size == (64, 64) and mode != "P":
        assert (whole == expected).all()
    assert np.abs(whole - expected).mean() < 8


def test_only_masked_frames_of_speech_change(omni, said):
    other = CAPTION.replace("green", "yellow")
    again = omni.generate("tts", text=other, infill=Infill(speech=said, intervals=[(0.4, 0.8)]))
    is_changed = said != again.speech
    assert len(said) == len(again.speech)
    assert not is_changed[: round(0.4 * 16000)].any()
    assert not is_changed[round(0.8 * 16000) :].any()
    assert is_changed.any()
    assert only_part(again)["masked"] == 10
    assert only_part(again)["ended"]
    assert again.parts[0] is again.speech


@pytest.mark.parametrize("cut", [0, 1, 311])
def test_speech_that_is_no_whole_number_of_frames_keeps_its_length_and_samples(omni, said, cut):
    own = said[: len(said) - cut].astype(np.float64)
    infill = Infill(speech=own, intervals=[(0.1, 0.2), (1.0, 1.04)])
    again = omni.generate("tts", text=CAPTION, infill=infill, num_steps=2).speech
    assert again.shape == own.shape
    seconds = np.arange(len(own)) / 16000
    is_masked = ((seconds >= 0.1 - 0.04) & (seconds < 0.2 + 0.04)) | (
        (seconds >= 1.0 - 0.04) & (seconds < 1.04 + 0.04)
    )
    assert (again[~is_masked] == own[~is_masked].astype(np.float32)).all()


def test_a_given_part_beside_a_generated_one_is_returned_bit_for_bit(omni, said):
    asked = omni.generate("tts", text="what is three plus five").speech
    infill = Infill(text="it is ___", speech=said)
    answer = omni.generate("sqa", speech=asked, infill=infill)
    assert (answer.speech == said).all()
    assert answer.parts[1] is answer.speech
    assert answer.record["parts"]["1"]["forwards"] == 0
    assert answer.text.startswith("it is ")


def test_words_are_found_with_their_number_of_tokens(omni, whale):
    infill = Infill(text="a ___ on a pink background")
    answer = omni.generate("caption", image=whale, infill=infill)
    assert answer.text == CAPTION
    assert only_part(answer)["masked"] == len(omni.template.text.encode(" green whale"))


def test_a_text_may_go_on_where_the_infill_ends(omni, whale):
    infill = Infill(text="a green ___")
    assert omni.generate("caption", image=whale, infill=infill).text == CAPTION


def test_a_given_answer_is_only_spoken(omni):
    asked = omni.generate("tts", text="what is three plus five").speech
    answer = omni.generate("sqa", speech=asked, infill=Infill(text="it is seven"))
    assert answer.text == "it is seven"
    assert omni.generate("asr", speech=answer.speech).text == "it is seven"
    assert answer.record["parts"]["0"]["masked"] == answer.record["parts"]["0"]["forwards"] == 0


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8}], ids=str)
def test_infills_and_whole_answers_share_a_batch_as_if_each_were_alone(omni, whale, said, options):
    picture = {"text": CAPTION, "infill": Infill(image=whale, mask=left_half())}
    spoken = {"text": CAPTION, "infill": Infill(speech=said, intervals=[(0.4, 0.8)])}
    samples = [
        omni.encode_request("caption", image=whale),
        omni.encode_request(
            "caption", image=whale, infill=Infill(text="___ whale on a ___ background")
        ),
        omni.encode_request("caption", image=whale, mask=left_half()),
        omni.encode_request("t2i", **picture),
        omni.encode_request("tts", **spoken),
        omni.encode_request("sqa", speech=said, infill=Infill(text="it is ___")),
        omni.encode_request("asr", speech=said, intervals=[(0.0, 1.0)]),
        omni.encode_request("t2i", text=CAPTION),
    ]
    config = GenerationConfig(**options)
    together = omni.answer(samples, seed=0, config=config)
    for i, answer in enumerate(together):
        (alone,) = omni.answer([samples[i]], seed=i, config=config)
        assert alone.sample == answer.sample
        for name, part in alone.record["parts"].items():
            other = answer.record["parts"][name]
            assert {**part, "candidates": None} == {**other, "candidates": None}


def test_the_same_seed_gives_the_same_answer(omni, whale):
    asked = {"text": CAPTION, "infill": Infill(image=whale, mask=left_half()), "temperature": 1.0}
    one, two, three = (omni.generate("t2i", seed=seed, **asked) for seed in (1, 1, 2))
    assert only_part(one)["ids"] == only_part(two)["ids"] != only_part(three)["ids"]


def test_an_answer_of_any_parts_is_completed(omni, whale, said):
    drawn = omni.encode_request("t2i", text="x", infill=Infill(image=whale, mask=left_half()))
    intervals = [(0.4, 0.8), (2.0, 2.2)]
    spoken = omni.encode_request("tts", text="x", infill=Infill(speech=said, intervals=intervals))
    image, speech = (sample.turns[-1].parts[0] for sample in (drawn, spoken))
    here = Part("text", text="here ___ is")

    def chat(text):
        parts = (here, image, speech, text, Part("image"))
        user = Turn("user", (Part("text", text="draw a green whale"),))
        return Sample("key", "chat", (user, Turn("assistant", parts)))

    with pytest.raises(OmniError, match="the length of part 3 \\(text\\) is not known"):
        omni.answer([chat(Part("text"))], seed=0)
    (answer,) = omni.answer([chat(Part("text", text="and ___"))], seed=0)
    assert [type(part) for part in answer.parts] == [str, Image.Image, np.ndarray, str, Image.Image]
    assert answer.parts[0].startswith("here ")
    assert [part["masked"] for part in answer.record["parts"].values()][1:3] == [32, 15]
    assert answer.image is answer.parts[4]
    (given,) = omni.answer([chat(Part("text"))], seed=0, config=GenerationConfig(response_length=5))
    assert given.record["parts"]["3"]["positions"] == 5


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
        {"text": "x", "infill": Infill(speech=wave, intervals=[(0, 0.0005)])},
    ):
        with pytest.raises(OmniError, match=expected):
            omni.generate("asr" if "speech" in given else "tts", **given)


def test_words_that_are_no_choice_are_refused(omni):
    for name, known in (("preset", "fast"), ("precision", "auto")):
        with pytest.raises(OmniError, match=f"{name} is 'odd', wanted one of {known}"):
            omni.generate("t2i", text="x", **{name: "odd"})


def test_masked_codes_of_a_request_are_masks_and_stay_so(omni, whale, said):
    half = omni.encode_request("caption", image=whale, mask=left_half())
    (part,) = half.turns[0].parts
    prompt, response = omni.template.render_prompt(half, part=0, length=4)
    mask = omni.template.vocab.mask_token_id
    masks = [i for i, token in enumerate(prompt.ids) if token == mask]
    assert len(part.masked) == 32
    assert masks[-4:] == list(range(response.start, response.stop))
    assert len(masks) == 36
    answer = omni.answer([half], seed=0)[0]
    assert 0 < only_part(answer)["forwards"] <= only_part(answer)["steps"]
    assert answer.sample.turns[0] == half.turns[0]
    hidden = omni.generate("asr", speech=said, intervals=[(0.0, len(said) / 16000)])
    assert hidden.text != omni.generate("asr", speech=said).text


def test_nothing_masked_and_superfluous_infills_are_refused(omni, whale, said):
    for task, given, infill, expected in (
        ("caption", {"image": whale}, Infill(text="a whale"), "is left to be generated"),
        ("caption", {"image": whale}, Infill(text=" "), "text is empty"),
        ("caption", {"image": whale}, Infill(text="a ___ <|mask|>"), "special token"),
        ("t2i", {"text": "x"}, Infill(image=whale), "is left to be generated"),
        ("t2i", {"text": "x"}, Infill(image=whale, mask=Image.new("L", (9, 9))), "mask is empty"),
        ("tts", {"text": "x"}, Infill(speech=said, intervals=[(1, 99)]), "not within the speech"),
        ("tts", {"text": "x"}, Infill(text="a ___"), "the infill holds text"),
    ):
        with pytest.raises(OmniError, match=expected):
            omni.generate(task, infill=infill, **given)
    with pytest.raises(OmniError, match="mask is given without the image"):
        omni.generate("asr", speech=said, mask=left_half())


def test_codes_alone_can_be_infilled_too(omni, whale):
    codes = omni.encode_request("caption", image=whale).turns[0].parts[0].codes
    question = omni.encode_request("t2i", text=CAPTION)
    own = Part("image", codes=codes, masked=frozenset({0, 63}))
    question = replace(question, turns=(question.turns[0], Turn("assistant", (own,))))
    (drawn,) = omni.answer([question], seed=0)
    assert only_part(drawn)["masked"] == 2
