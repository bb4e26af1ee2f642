"""Requests: which codes a mask or intervals hide, and what is refused."""

import pytest
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.generation.command import InputFiles
from lightning_omni.generation.request import (
    Infill,
    check_has_answer_to_generate,
    check_infill,
    masked_codes,
    masked_frames,
)
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn

RATE, HOP = 1000, 100


def picture(width, height, *boxes):
    """Return a black picture with white boxes."""
    image = Image.new("RGB", (width, height))
    for box in boxes:
        image.paste((255, 255, 255), box)
    return image


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (picture(8, 8, (0, 0, 4, 4)), {0, 1, 4, 5}),
        (picture(8, 8, (3, 3, 4, 4)), {5}),
        (picture(8, 8, (3, 3, 5, 5)), {5, 6, 9, 10}),
        (picture(800, 400, (400, 0, 401, 400)), {2, 6, 10, 14}),
        (picture(2, 2, (1, 0, 2, 2)), {2, 3, 6, 7, 10, 11, 14, 15}),
    ],
)
def test_a_code_is_masked_if_any_of_its_pixels_is_in_the_mask(mask, expected):
    assert masked_codes(picture(64, 64), mask, 4) == expected


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (255, 255, 255, 0)])
def test_nothing_is_masked_where_a_mask_is_transparent(colour, tmp_path):
    mask = Image.new("RGBA", (8, 8), colour)
    mask.paste("white", (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    picture(8, 8).save(tmp_path / "own.png")
    files = InputFiles(
        text="a", infill_image=str(tmp_path / "own.png"), mask=str(tmp_path / "mask.png")
    )
    infill = files.read_inputs(sample_rate=RATE)["infill"]
    for shown in (mask, infill.mask):
        assert masked_codes(picture(64, 64), shown, 2) == {0, 2}


def test_a_mask_lies_over_the_whole_picture_not_its_square():
    wide = picture(128, 64)
    assert masked_codes(wide, picture(128, 64, (32, 0, 33, 64)), 4) == {0, 4, 8, 12}
    with pytest.raises(OmniError, match="the mask is empty"):
        masked_codes(wide, picture(128, 64, (0, 0, 32, 64)), 4)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0.1, 0.3)], [1, 2]),
        ([(0.1, 0.301)], [1, 2, 3]),
        ([(0.0, 0.05), (0.95, 1.0)], [0, 9]),
        ([(0.39, 0.5), (0.4, 0.41)], [3, 4]),
    ],
)
def test_a_frame_is_masked_if_it_overlaps_with_an_interval(intervals, expected):
    assert masked_frames(1000, intervals, rate=RATE, hop_length=HOP) == expected


@pytest.mark.parametrize(
    "intervals", [[(0.5, 0.5)], [(0.5, 1.2)], [(-1, 0.2)], [(0.4, float("nan"))]]
)
def test_intervals_outside_the_speech_are_refused(intervals):
    with pytest.raises(OmniError, match="not within the speech, which lasts 1 s"):
        masked_frames(1000, intervals, rate=RATE, hop_length=HOP)
    with pytest.raises(OmniError, match="intervals is empty"):
        masked_frames(1000, [], rate=RATE, hop_length=HOP)


def test_the_end_of_the_speech_that_an_error_names_is_within_it():
    with pytest.raises(OmniError, match=r"lasts 0\.987 s"):
        masked_frames(15800, [(0, 2)], rate=16000, hop_length=320)
    assert masked_frames(15800, [(0.98, 0.987)], rate=16000, hop_length=320) == [49]


def test_an_infill_names_what_it_lacks():
    with pytest.raises(OmniError, match="the infill is empty"):
        Infill()
    with pytest.raises(OmniError, match="mask is given without the image"):
        Infill(text="a ___", mask=picture(2, 2))
    with pytest.raises(OmniError, match="intervals is given without the speech"):
        Infill(text="a ___", intervals=[(0, 1)])
    with pytest.raises(OmniError, match="answers with text, but the infill holds image"):
        check_infill(task_named("caption"), Infill(image=picture(2, 2)))


TEXT, SPEECH = Part("text", text="a cat"), Part("speech", codes=(1, 2))


def unfinished(*parts, role="assistant"):
    return Sample("key", "chat", (Turn("user", ()), Turn(role, parts)))


@pytest.mark.parametrize(
    "parts",
    [
        (Part("text"),),
        (Part("text", text=""), SPEECH),
        (Part("text", text="a ___"),),
        (TEXT, SPEECH, Part("image")),
        (TEXT, Part("speech", codes=(1, 2), masked=frozenset([1]))),
    ],
)
def test_an_answer_with_something_to_generate_passes(parts):
    check_has_answer_to_generate(unfinished(*parts))


@pytest.mark.parametrize(
    "parts",
    [
        (TEXT,),
        (TEXT, SPEECH),
        (TEXT, SPEECH, Part("image", codes=(1,))),
        (Part("text", is_transcript=True), TEXT),
    ],
)
def test_an_answer_with_nothing_left_to_generate_is_refused(parts):
    expected = r"of sample 'key' is left to be generated; write ___ .* sample\.unanswered\(\)"
    with pytest.raises(OmniError, match=expected):
        check_has_answer_to_generate(unfinished(*parts))
    check_has_answer_to_generate(unfinished(*parts).unanswered())


@pytest.mark.parametrize("masked", [{2}, {0, 7}, {-1}, {-3, 1}])
def test_a_masked_position_that_has_no_code_is_refused(masked):
    for codes in ((1, 2), ()):
        with pytest.raises(OmniError, match="part 1 of the answer masks code"):
            check_has_answer_to_generate(
                unfinished(TEXT, Part("speech", codes=codes, masked=frozenset(masked)))
            )
    with pytest.raises(OmniError, match="part 0 of the answer masks code"):
        check_has_answer_to_generate(unfinished(Part("image", masked=frozenset(masked))))


def test_an_answer_of_no_parts_or_no_answer_is_refused():
    with pytest.raises(OmniError, match="'key' has no parts"):
        check_has_answer_to_generate(unfinished())
    with pytest.raises(OmniError, match="'key' has no parts"):
        check_has_answer_to_generate(unfinished(Part("text", is_transcript=True)))
    with pytest.raises(OmniError, match="'key' does not end with an assistant turn"):
        check_has_answer_to_generate(unfinished(Part("text"), role="user"))


def test_a_text_part_that_holds_codes_is_refused():
    with pytest.raises(OmniError, match="part 0 of the answer is text but holds codes; give text"):
        check_has_answer_to_generate(unfinished(Part("text", codes=(1, 2))))


def test_an_answer_is_emptied_without_its_transcript():
    said = Part("text", text="what", is_transcript=True)
    emptied = unfinished(said, TEXT, Part("speech", codes=(1, 2), masked=frozenset([0])))
    assert emptied.unanswered() == unfinished(Part("text"), Part("speech"))
    assert all(part.is_empty for part in emptied.unanswered().turns[-1].parts)
