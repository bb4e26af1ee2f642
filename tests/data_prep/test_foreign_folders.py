"""Folders and lists of other people: formats, blank texts, ends of lines, records as they are."""

import io
import json
import logging

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_prep.__main__ import main
from data_prep.corpora import load_layout
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.corpora.entries import CaptionedImage, ContentPart, Conversation, TranscribedSpeech
from data_prep.corpora.text_files import split_lines
from lightning_omni.data.manifest import read_manifest
from lightning_omni.errors import OmniError

ZERO_WIDTH = "\u200b\ufeff"


def build(layout, source):
    """What a builder makes of a corpus: its samples by task, and reasons of what it left out."""
    logging.disable(logging.WARNING)
    builder = CorpusBuilder(layout, "train")
    builder.add_entries(load_layout(layout).read(source, split="train"))
    logging.disable(logging.NOTSET)
    samples = builder.collection.samples
    return {task: list(found.values()) for (task, _), found in samples.items()}, [
        line.partition(": ")[2] for line in builder.tally.left_out
    ]


def picture(colour="red", kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


def sound(kind="WAV", subtype="PCM_16", level=0.1):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(16_000, float(level)), 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


def write(folder, name, content, text):
    (folder / name).write_bytes(content)
    (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def test_pictures_of_other_formats_are_taken_or_named(tmp_path):
    write(tmp_path, "a.jfif", picture(kind="JPEG"), "one")
    write(tmp_path, "b.PNG", picture("blue"), "two")
    for name in ("c.gif", "d.bmp", "e.TIFF", "f.heic"):
        write(tmp_path, name, b"x", "words")
    samples, left_out = build("image_folder", tmp_path)
    assert len(samples["caption"]) == 2
    assert [line.partition(" ")[0] for line in left_out] == [".gif", ".bmp", ".tiff", ".heic"]


def test_recordings_of_other_formats_are_taken_or_named(tmp_path):
    kinds = {"opus": ("OGG", "OPUS"), "oga": ("OGG", "VORBIS"), "aiff": ("AIFF", "PCM_16")}
    kinds |= {"au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16")}
    for suffix, (kind, subtype) in kinds.items():
        write(tmp_path, f"{suffix}.{suffix}", sound(kind, subtype), suffix)
    write(tmp_path, "x.m4a", b"x", "words")
    samples, left_out = build("audio_transcripts", tmp_path)
    assert sorted(s.meta["text"] for s in samples["asr"]) == sorted(kinds)
    assert left_out == [".m4a files are not read; convert it to WAV or FLAC"]


@pytest.mark.parametrize("text", ["", " \n", ZERO_WIDTH, "\u00a0\u2003", "\x00\x07"])
def test_nothing_passes_as_text(text, tmp_path):
    write(tmp_path, "a.png", picture(), text)
    assert build("image_folder", tmp_path)[1] == [
        f"'{tmp_path / 'a.txt'}' is empty; write the text of 'a.png' there"
    ]
    builder = CorpusBuilder("x", "train")
    turns = (("user", (ContentPart("text", "hi"),)), ("assistant", (ContentPart("text", text),)))
    for entry in (
        CaptionedImage("x", picture(), text),
        TranscribedSpeech("x", sound(), text, "v"),
        Conversation("x", "chat", turns),
    ):
        with pytest.raises(OmniError, match="is blank"):
            builder._add_entry(entry)


def test_a_silent_recording_with_words_is_left_out(tmp_path):
    write(tmp_path, "a.wav", sound(level=0), "hello")
    assert "is silent, but has the words 'hello'" in build("audio_transcripts", tmp_path)[1][0]


def test_a_conversation_without_an_answer_is_left_out(tmp_path):
    lines = [[("user", "hi")], [("system", "be kind"), ("user", "hi")]]
    rows = [{"messages": [{"role": r, "content": c} for r, c in turns]} for turns in lines]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert build("messages", tmp_path / "x.jsonl")[1] == [
        "no turn is the assistant's, so there is nothing to learn"
    ] * len(lines)


def talk(question, answer, names=("from", "value"), roles=("human", "gpt")):
    pairs = zip(roles, (question, answer), strict=True)
    return [{names[0]: role, names[1]: words} for role, words in pairs]


LLAVA = [
    ({"image": "y.png"}, talk("<image>\nWhat?", "red"), "vqa"),
    ({"image": ["y.png"]}, talk("<image>\nWhich?", "red"), "vqa"),
    ({"image": "y.png"}, talk("How many?", 3), "vqa"),
    (
        {"image": "y.png"},
        talk("And?", "so", ("role", "content"), ("user", "assistant")),
        "vqa",
    ),
    ({"image": None}, talk("What is up?", "the sky"), "tqa"),
    ({}, talk("What is down?", "the floor"), "tqa"),
    ({"image": []}, talk("What is left?", "nothing"), "tqa"),
    ({"image": ["y.png", "y.png"]}, talk("Both?", "yes"), "it has 2 images"),
    ({"image": 7}, talk("x", "y"), "it has the image 7"),
    ({"video": "a.mp4"}, talk("x", "y"), "it is about a video"),
    ({"image": "y.png"}, talk("x", ""), "the answer is blank"),
    ({"image": "y.png"}, talk("x", None), "the answer is blank"),
    ({"image": "y.png"}, talk("<image>", "y"), "the question is blank"),
    ({"image": "y.png"}, talk("x", ["y"]), "a turn has the value"),
    ({"image": "y.png"}, None, "conversations are not a list"),
    ({"image": "y.png"}, [], "no turn of a human is followed by one of gpt"),
    ({"image": "y.png"}, talk("x", "y")[::-1], "no turn of a human is followed by one of gpt"),
]


@pytest.mark.parametrize(("record", "turns", "becomes"), LLAVA)
def test_records_of_llava_become_questions_or_are_counted(record, turns, becomes, tmp_path):
    (tmp_path / "y.png").write_bytes(picture())
    (tmp_path / "x.json").write_text(json.dumps([{**record, "conversations": turns}]))
    samples, left_out = build("llava_onevision", tmp_path / "x.json")
    if len(becomes) == 3:
        assert {task: len(found) for task, found in samples.items()} == {becomes: 1}
        assert not left_out
    else:
        assert not samples
        assert left_out[0].startswith(becomes)


def test_only_lf_and_crlf_end_lines(tmp_path):
    assert split_lines("a\rb\r\nc\u2028d\x85e\x0bf\n\ng") == ["a\rb", "c\u2028d\x85e\x0bf", "", "g"]
    assert split_lines("a\n") == ["a"]
    chapter = tmp_path / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2-0.flac").write_bytes(sound("FLAC"))
    (chapter / "1-2.trans.txt").write_bytes("1-2-0 HE SAID\u2028YES\r\n".encode())
    samples, left_out = build("librispeech", tmp_path)
    assert samples["asr"][0].meta["text"] == "he said\u2028yes"
    assert not left_out


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", "a.png", picture(), "one")
    assert main(["--corpus", "image_folder", "--source", "~/in", "--out=~/out"]) == 0
    assert read_manifest(tmp_path / "out")["counts"]["caption"]["train"] == 1


def test_what_file_managers_and_notebooks_leave_is_passed_over(tmp_path):
    write(tmp_path, "a.png", picture(), "one")
    for name in ("._a.png", ".hidden.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    samples, left_out = build("image_folder", tmp_path)
    assert len(samples["caption"]) == 1
    assert not left_out
