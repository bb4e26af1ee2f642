"""What a draft leaves open, and what of it comes back as it was."""

import numpy as np
import pytest
from lightning_omni.generation.composite import compose_image, compose_speech
from lightning_omni.generation.draft import Draft, check_draft, open_cells, open_frames
from lightning_omni.generation.given_files import GivenFiles, parse_times
from lightning_omni.generation.part_draft import (
    ImageDraft,
    SpeechDraft,
    TextDraft,
    check_part_drafts,
)
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn

RATE, HOP = 1000, 100


def picture(width, height, *boxes):
    """Black, with white boxes."""
    image = Image.new("RGB", (width, height))
    for box in boxes:
        image.paste((255, 255, 255), box)
    return image


@pytest.mark.parametrize(
    ("text", "fillings", "wanted"),
    [
        ("a ___ whale", [" green"], "a green whale"),
        ("___ whales", [" two"], "two whales"),
        ("a green ___", [" whale "], "a green whale"),
        ("un___able", ["bear"], "unbearable"),
        ("a ___, and ____\n", [" cat", " dog"], "a cat, and dog\n"),
        ("  two  ___{2}  cats", [" black"], "  two  black  cats"),
    ],
)
def test_text_outside_gaps_comes_back_verbatim(text, fillings, wanted):
    assert TextDraft.parse(text).assemble(fillings) == wanted


def test_two_underscores_are_no_gap_and_a_length_can_be_stated():
    assert TextDraft.parse("snake__case").is_whole
    draft = TextDraft.parse("a ___{3} on ___")
    assert draft.lengths == (3, None)
    assert draft.has_open_end
    assert not TextDraft.parse("a ___{3}").has_open_end
    for wrong in (0, 65, 12345):
        with pytest.raises(OmniError, match=f"has {wrong} tokens, wanted 1 to 64"):
            TextDraft.parse(f"a ___{{{wrong}}}")
    for wrong in ("{-1}", "{two}", "{}", "{2.5}"):
        with pytest.raises(OmniError, match=f"has the gap '___{wrong}', wanted"):
            TextDraft.parse(f"a ___{wrong} on ___")
    assert TextDraft.parse("a ___ {two}").pieces == ("a ", " {two}")


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (picture(8, 8, (0, 0, 4, 4)), {0, 1, 4, 5}),
        (picture(8, 8, (3, 3, 4, 4)), {5}),
        (picture(8, 8, (3, 3, 5, 5)), {5, 6, 9, 10}),
        (picture(800, 400, (400, 0, 401, 400)), {2, 6, 10, 14}),
        (picture(2, 2, (1, 0, 2, 2)), {2, 3, 6, 7, 10, 11, 14, 15}),
    ],
)
def test_a_code_is_open_if_any_of_its_pixels_is_in_the_mask(mask, wanted):
    assert open_cells(picture(64, 64), mask, 4) == wanted


@pytest.mark.parametrize("colour", [(0, 0, 0, 0), (255, 255, 255, 0)])
def test_where_a_mask_is_transparent_nothing_is_open(colour, tmp_path):
    mask = Image.new("RGBA", (8, 8), colour)
    mask.paste("white", (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    picture(8, 8).save(tmp_path / "own.png")
    files = GivenFiles(
        text="a", draft_image=str(tmp_path / "own.png"), mask=str(tmp_path / "mask.png")
    )
    draft = files.read(sample_rate=RATE)["draft"]
    for shown in (mask, draft.mask):
        assert open_cells(picture(64, 64), shown, 2) == {0, 2}


def test_a_mask_lies_over_the_whole_picture_not_its_square():
    wide = picture(128, 64)
    assert open_cells(wide, picture(128, 64, (32, 0, 33, 64)), 4) == {0, 4, 8, 12}
    with pytest.raises(OmniError, match="the mask is empty"):
        open_cells(wide, picture(128, 64, (0, 0, 32, 64)), 4)


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([(0.1, 0.3)], [1, 2]),
        ([(0.1, 0.301)], [1, 2, 3]),
        ([(0.0, 0.05), (0.95, 1.0)], [0, 9]),
        ([(0.39, 0.5), (0.4, 0.41)], [3, 4]),
    ],
)
def test_a_frame_is_open_if_it_overlaps_with_the_times(times, wanted):
    assert open_frames(1000, times, rate=RATE, hop_length=HOP) == wanted


@pytest.mark.parametrize("times", [[(0.5, 0.5)], [(0.5, 1.2)], [(-1, 0.2)], [(0.4, float("nan"))]])
def test_times_outside_the_speech_are_refused(times):
    with pytest.raises(OmniError, match="not within the speech, which lasts 1 s"):
        open_frames(1000, times, rate=RATE, hop_length=HOP)
    with pytest.raises(OmniError, match="times is empty"):
        open_frames(1000, [], rate=RATE, hop_length=HOP)


def test_the_end_that_is_told_of_speech_is_within_it():
    with pytest.raises(OmniError, match=r"lasts 0\.987 s"):
        open_frames(15800, [(0, 2)], rate=16000, hop_length=320)
    assert open_frames(15800, [(0.98, 0.987)], rate=16000, hop_length=320) == [49]


def test_a_picture_keeps_its_pixels_outside_the_open_codes():
    own, drawn = picture(8, 8), picture(8, 8, (0, 0, 8, 8))
    made = np.asarray(compose_image(drawn, own, {1, 14}, 4))[..., 0]
    is_drawn = np.zeros((8, 8), dtype=bool)
    is_drawn[0:2, 2:4] = is_drawn[6:8, 4:6] = True
    assert (made == np.where(is_drawn, 255, 0)).all()


def test_sound_keeps_its_samples_outside_the_open_frames_and_fades_within_them():
    own, said = np.zeros(950, dtype=np.float32), np.ones(1000, dtype=np.float32)
    made = compose_speech(said, own, {2, 3, 9}, hop_length=HOP, rate=RATE)
    assert len(made) == 950
    is_open = np.zeros(950, dtype=bool)
    is_open[200:400] = is_open[900:] = True
    assert (made[~is_open] == 0).all()
    assert (made[is_open] > 0).all()
    assert (made[210:390] == 1).all()
    assert (np.diff(made[200:210]) > 0).all()
    assert (np.diff(made[390:400]) < 0).all()
    assert made[-1] == 1  # the end borders on nothing


def test_a_medium_without_open_places_comes_back_as_it_was():
    wave = np.linspace(-1, 1, 250, dtype=np.float32)
    kept = compose_speech(np.zeros(300, dtype=np.float32), wave, (), hop_length=HOP, rate=RATE)
    assert (kept == wave).all()


def test_what_a_draft_lacks_is_named():
    with pytest.raises(OmniError, match="the draft is empty"):
        Draft()
    with pytest.raises(OmniError, match="mask is given without the image"):
        Draft(text="a ___", mask=picture(2, 2))
    with pytest.raises(OmniError, match="times is given without the speech"):
        Draft(text="a ___", times=[(0, 1)])
    with pytest.raises(OmniError, match="answers with text, but the draft holds image"):
        check_draft(task_named("caption"), Draft(image=picture(2, 2)))


def sample(*modalities):
    answer = tuple(Part(modality) for modality in modalities)
    return Sample("key", "chat", (Turn("user", ()), Turn("assistant", answer)))


def test_a_draft_that_leaves_nothing_open_or_fits_no_part_is_refused():
    whole = {0: TextDraft.parse("a cat"), 1: SpeechDraft((1, 2))}
    with pytest.raises(OmniError, match="leaves nothing to be filled; write ___"):
        check_part_drafts(sample("text", "speech"), whole)
    check_part_drafts(sample("text", "speech", "image"), whole)
    check_part_drafts(sample("text", "speech"), {**whole, 1: SpeechDraft((1, 2), frozenset([1]))})
    with pytest.raises(OmniError, match="part 1 of the answer is speech but its draft is image"):
        check_part_drafts(sample("text", "speech"), {1: ImageDraft((1,), frozenset([0]))})
    with pytest.raises(OmniError, match="'key' has no parts"):
        check_part_drafts(sample(), {})
    with pytest.raises(OmniError, match="a draft for part 2 of the answer"):
        check_part_drafts(sample("text", "speech"), {2: TextDraft.parse("___")})


def sorted_for(task, **given):
    return GivenFiles(**given).sorted_for(task_named(task))


def test_what_a_task_does_not_ask_for_is_the_draft():
    drawn = sorted_for("t2i", text="a ___", image="own.png", mask="m.png")
    assert (drawn.text, drawn.image, drawn.draft_image) == ("a ___", None, "own.png")
    written = sorted_for("caption", text="a ___", image="own.png", mask="m.png")
    assert (written.text, written.draft_text) == (None, "a ___")
    assert (written.image, written.draft_image) == ("own.png", None)
    said = sorted_for("tts", text="hi", audio="own.wav", times="0-1")
    assert (said.audio, said.draft_audio) == (None, "own.wav")
    heard = sorted_for("asr", audio="own.wav", times="0-1")
    assert (heard.audio, heard.draft_audio) == ("own.wav", None)
    both = sorted_for("sqa", audio="own.wav", draft_audio="other.wav", times="0-1")
    assert (both.audio, both.draft_audio) == ("own.wav", "other.wav")


def test_times_are_runs_of_seconds():
    assert parse_times("0.5-1.2, 2-2.4,.1-3") == [(0.5, 1.2), (2, 2.4), (0.1, 3)]
    for wrong in ("", "1", "1-", "1-2-3", "a-b", "1-2,"):
        with pytest.raises(OmniError, match="wanted runs of seconds such as"):
            parse_times(wrong)
