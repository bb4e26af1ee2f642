"""Tars and Parquet files of other people: odd names, damage, and what is told of it."""

import gzip
import io
import json
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
from tar_files import write_tar

from data_prep.corpora.entries import CaptionedImage, UnusableEntry
from data_prep.corpora.json_list import read_json_items
from data_prep.corpora.parquet import parquet_rows
from data_prep.corpora.source_files import expand_sources, find_files
from data_prep.corpora.speech_tars import read as read_speech
from data_prep.corpora.spoken_dialogues import read as read_dialogues
from data_prep.corpora.tars import tar_entries
from data_prep.corpora.text_files import read_tsv
from data_prep.corpora.transcripts import clean_transcript, speaker_voice_name
from data_prep.speech.snac_codes import decode_snac_to_wav, parse_snac_layers
from lightning_omni.errors import OmniError


def tar_of(path, names):
    return write_tar(path, [(name, name.encode().ljust(600)) for name in names])


def read(path):
    """The entries of a tar: the extensions of each sample, or the sample's absence."""
    return list(
        tar_entries(path, lambda origin, files: CaptionedImage(origin, b"", " ".join(files)))
    )


def test_names_with_folders_dots_and_spaces_are_samples_and_hidden_files_are_none(tmp_path):
    names = [
        "./a/1.jpg",
        "./a/._1.jpg",
        "./a/1.txt",
        "b/1.JPEG",
        "v 1.2.jpg",
        "v 1.2.txt",
        "README",
    ]
    found = read(tar_of(tmp_path / "x.tar", ["__MACOSX/1.jpg", *names]))
    keys = [entry.origin.rpartition(":")[2] for entry in found]
    assert keys == ["a/1", "b/1", "v 1.2"]
    assert [entry.caption for entry in found] == ["jpg txt", "jpeg", "jpg txt"]


def test_a_compressed_tar_is_read(tmp_path):
    raw = tar_of(tmp_path / "x.tar", ["1.jpg", "2.jpg"]).read_bytes()
    (tmp_path / "y").mkdir()
    (tmp_path / "y/x.tar.gz").write_bytes(gzip.compress(raw))
    assert len(read(tmp_path / "y")) == 2


@pytest.mark.parametrize("damage", ["cut", "header", "short"])
def test_a_damaged_tar_gives_its_samples_up_to_the_damage_and_counts_the_rest(damage, tmp_path):
    path = tar_of(tmp_path / "x.tar", [f"{i}.jpg" for i in range(20)])
    raw = bytearray(path.read_bytes())
    place = 1536 * 5
    if damage == "header":
        raw[place : place + 512] = b"x" * 512
    path.write_bytes(raw[: {"cut": place, "short": place + 700}.get(damage)])
    *good, bad = read(path)
    assert len(good) == 5
    assert isinstance(bad, UnusableEntry)
    assert "damaged after" in bad.reason
    lost = {"cut": 1, "short": 1, "header": round((len(raw) - place) / 1536)}
    assert bad.entries == lost[damage]


def test_what_is_no_tar_counts_by_its_size(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no" * 500_000)
    (bad,) = read(tmp_path)
    assert bad.entries == 10


def test_a_folder_without_tars_is_refused(tmp_path):
    with pytest.raises(OmniError, match=r"no \.tar or"):
        read(tmp_path)


def test_a_recording_without_words_is_left_out(tmp_path):
    tar_of(tmp_path / "x.tar", ["1.mp3", "2.txt"])
    first, second = read_speech(tmp_path / "x.tar", split="train")
    assert "has no text" in first.reason
    assert "has no wav or flac" in second.reason


def test_braces_stand_for_several_files(tmp_path):
    for i in range(3):
        (tmp_path / f"{i:03d}.tar").touch()
    (tmp_path / "a{b}.tar").touch()
    found = expand_sources([f"{tmp_path}/{{000..002}}.tar", tmp_path / "a{b}.tar"])
    assert [path.name for path in found] == ["000.tar", "001.tar", "002.tar", "a{b}.tar"]
    with pytest.raises(OmniError, match=r"no file or folder '.*003\.tar'"):
        expand_sources([f"{tmp_path}/{{000..003}}.tar"])
    with pytest.raises(OmniError, match="cannot be expanded"):
        expand_sources([f"{tmp_path}/{{000..003.tar"])


def test_linked_folders_are_followed_once_and_leftovers_of_macos_passed_over(tmp_path):
    for name in ("in/b/2.PNG", "in/a.png", "in/._a.png", "in/__MACOSX/3.png", "elsewhere/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    found = [path.name for path in find_files(tmp_path / "in", (".png",))]
    assert found == ["a.png", "2.PNG", "4.png"]


def test_a_table_may_have_a_byte_order_mark_long_fields_and_short_rows(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("\ufeffpath\tsentence\r\na\r\nb\tx\u2028y\r\nc\t".encode() + b"z" * 200_000)
    rows = [row["sentence"] for _, row in read_tsv(path, ("path", "sentence"))]
    assert rows == ["", "x\u2028y", "z" * 200_000]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_json_list_is_read_item_by_item(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.corpora.json_list._CHUNK", chunk)
    items = [{"a": ["x]", {"b": 1}]}, 123456, "é,", None, [1.5e3], {}]
    (tmp_path / "x.json").write_text("\ufeff " + json.dumps(items, indent=1) + " \n")
    assert list(read_json_items(tmp_path / "x.json")) == items
    (tmp_path / "empty.json").write_text("[ ]")
    assert list(read_json_items(tmp_path / "empty.json")) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}', "not a JSON list"),
        ("[1, 2", "found the end, wanted , or ]"),
        ("[1, oops]", "is not JSON"),
        ("[1] 2", "goes on"),
    ],
)
def test_what_is_no_json_list_is_refused(content, words, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(OmniError, match=words):
        list(read_json_items(tmp_path / "x.json"))


def test_a_parquet_file_without_the_columns_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(arrow.Table.from_pylist([{"a": 1}]), tmp_path / "x.parquet")
    with pytest.raises(OmniError, match=r"x\.parquet': no column of spoken answers"):
        list(read_dialogues(tmp_path / "x.parquet", split="train"))


def test_a_parquet_file_is_read_a_few_rows_at_a_time_and_damage_counts_the_rows_left(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import ParquetFile, write_table

    rows = [{"n": i, "x": np.random.default_rng(i).bytes(3000)} for i in range(100)]
    path = tmp_path / "x.parquet"
    write_table(arrow.Table.from_pylist(rows), path, row_group_size=40, use_dictionary=False)
    assert [row["n"] for _, row in parquet_rows(path, list)] == list(range(100))
    second = ParquetFile(path).metadata.row_group(1).column(0)
    place = second.dictionary_page_offset or second.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[place : place + 16] = b"\xff" * 16
    path.write_bytes(raw)
    *good, (_, last) = parquet_rows(path, list)
    assert len(good) == 32  # whole batches of the first 40 rows
    assert "not readable Parquet after 32 rows" in last.reason
    assert last.entries == 68


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("AS <COMMA> THEY SAY <PERIOD>", "as, they say."),
        ("Well", "Well"),
        ("IS IT <QUESTIONMARK>", "is it?"),
    ],
)
def test_tags_of_punctuation_become_punctuation(words, plain):
    assert clean_transcript(words, "x") == plain


def test_an_utterance_without_words_is_refused_and_an_unknown_speaker_has_a_name():
    with pytest.raises(OmniError, match="has no words: '<MUSIC>'"):
        clean_transcript("<MUSIC>", "x")
    assert speaker_voice_name("N/A") == speaker_voice_name(None) == "speaker-unknown"
    assert speaker_voice_name(17) == "speaker-17"


def test_frames_of_snac_codes_are_split_into_three_layers():
    frames = "# 0 1 2 3 4 5 6 # 10 11 12 13 14 15 16"
    assert parse_snac_layers(frames, "x") == [[0, 10], [1, 4, 11, 14], [2, 3, 5, 6, 12, 13, 15, 16]]
    for wrong, words in (("# 1 2", "SNAC frame"), ("# a", "no numbers"), ("", "no spoken answer")):
        with pytest.raises(OmniError, match=words):
            parse_snac_layers(wrong, "x")


def test_spoken_answers_in_snac_codes_are_decoded(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    sound = {"bytes": b"RIFF", "path": None}
    row = {
        "question": "Who?",
        "question_audio": sound,
        "answer": "Me.",
        "answer_snac": "# 1 2 3 4 5 6 7",
    }
    write_table(arrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OmniError, match="pip install snac"):
        list(read_dialogues(tmp_path, split="train"))
    monkeypatch.undo()

    class Snac:
        def eval(self):
            return self

        def decode(self, layers):
            assert [layer.tolist() for layer in layers] == [[[1]], [[2, 5]], [[3, 4, 6, 7]]]
            return torch.full((1, 1, 4800), 0.5)

    module = types.ModuleType("snac")
    module.SNAC = types.SimpleNamespace(from_pretrained=lambda name: Snac())
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "snac", module)
    (entry,) = read_dialogues(tmp_path, split="train")
    wave, rate = soundfile.read(io.BytesIO(entry.answer_sound))
    assert (rate, len(wave)) == (24000, 4800)
    assert wave[0] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(OmniError, match="SNAC frame"):
        decode_snac_to_wav("# 4096 0 0 0 0 0 0", "x")
