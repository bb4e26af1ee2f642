"""What a corpus does not read is counted and told, and nothing in it takes time or memory."""

import gzip
import io
import logging
import tarfile
import time

import pytest
from PIL import Image
from tar_files import write_tar

from data_prep.corpora import load_layout
from data_prep.corpora.entries import UnusableEntry
from data_prep.corpora.passed_over import log_passed_over
from data_prep.corpora.tars import tar_entries
from data_prep.corpora.text_files import read_tsv
from lightning_omni import cli
from lightning_omni.errors import OmniError


def picture(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def told(layout, folder):
    lines = log_passed_over(load_layout(layout), [folder])
    return [line.replace(f"{folder}/", "") for line in lines]


@pytest.mark.parametrize("layout", ["img2dataset", "blip3o", "speech_tars"])
def test_archives_and_loose_media_beside_tars_are_counted_by_kind(layout, tmp_path):
    names = ["0.tar", "1.tgz", "2.TAR.GZ", "0.parquet", "0_stats.json", ".hidden.zip"]
    names += ["a.zip", "sub/b.zip", "c.tar.zst", "d.tar.bz2", "e.7z", "f.jpg", "g.flac", "h.gif"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert told(layout, tmp_path) == [
        "1 .7z files, which are not unpacked, such as 'e.7z'",
        "1 .flac files, which this corpus does not hold, such as 'g.flac'",
        "1 .gif files, which this corpus does not hold, such as 'h.gif'",
        "1 .jpg files, which this corpus does not hold, such as 'f.jpg'",
        "1 .tar.bz2 files, which are not unpacked, such as 'd.tar.bz2'",
        "1 .tar.zst files, which are not unpacked, such as 'c.tar.zst'",
        "2 .zip files, which are not unpacked, such as 'a.zip'",
    ]


def test_texts_without_a_medium_and_media_of_another_kind_are_counted(tmp_path):
    for name in ("a.PNG", "a.txt", "b.gif", "b.txt", "c.txt", "d.e.txt", "x.wav", "y.tgz"):
        (tmp_path / name).touch()
    assert told("image_folder", tmp_path) == [
        "1 .tgz files, which are not unpacked, such as 'y.tgz'",
        "2 .txt files without a file that they describe, such as 'c.txt'",
        "1 .wav files, which this corpus does not hold, such as 'x.wav'",
    ]
    (tmp_path / "x.normalized.txt").touch()
    (tmp_path / "z.normalized.txt").touch()
    lone = "1 .normalized.txt files without a file that they describe, such as 'z.normalized.txt'"
    assert lone in told("libritts", tmp_path)
    assert told("librispeech", tmp_path) == [
        "1 .tgz files, which are not unpacked, such as 'y.tgz'"
    ]


def test_prep_data_says_it_and_refuses_a_folder_of_nothing_else(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").touch()
    for layout in ("image_folder", "img2dataset"):
        args = ["--corpus", layout, "--source", str(tmp_path / "in"), "--out", str(tmp_path / "o")]
        assert cli.main(["prep-data", *args]) == 2
        said = capsys.readouterr().err
        assert "found no entries" in said or "no .tar" in said
        assert caplog.text.count("passed over 1 .zip files, which are not unpacked") == 1
        caplog.clear()
    (tmp_path / "in/b.png").write_bytes(picture())
    (tmp_path / "in/b.txt").write_text("a square")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in")]
    assert cli.main(["prep-data", *args, "--out", str(tmp_path / "o")]) == 0
    assert "passed over 1 .zip files" in caplog.text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "--source is '', wanted a file, a folder or a URL"),
        ("a\0b", "wanted a file"),
        ("{0..99999999}.tar", "names 100,000,000 files, at most 1,000,000"),
        ("{0..9999}/{-999..0}/{00..20..2}.tar", "names 110,000,000 files"),
        (f"{{0..1{'0' * 5000}}}.tar", "names 10,000,000,000,000,000,001 files"),
    ],
)
def test_a_source_that_names_nothing_or_too_much_is_refused_at_once(
    source, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    args = ["--corpus", "image_folder", "--source", source, "--out", "o"]
    assert cli.main(["prep-data", *args]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "LIGHTNING_OMNI_TRACEBACK" not in said


def test_a_line_of_librispeech_whose_name_is_a_path_is_left_out(tmp_path):
    (tmp_path / "1-2.trans.txt").write_text("../../x HELLO\n1-2-0 HELLO\n HELLO\n")
    one, two, three = load_layout("librispeech").read(tmp_path, split="train")
    assert isinstance(one, UnusableEntry)
    assert two.words == "hello"
    assert isinstance(three, UnusableEntry)


def bomb(path, size, kind=tarfile.REGTYPE):
    """Write a compressed tar with a sample and a member of zeros."""
    names = ("1.png", "1.txt", "2.png", "2.txt")
    good = write_tar(path.with_suffix(".plain"), [(name, b"red") for name in names])
    member = tarfile.TarInfo("bomb.bin" if kind == tarfile.REGTYPE else "././@LongLink")
    member.size, member.type = size, kind
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(good.read_bytes()[: 8 * 512])
        out.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(min(size, 64 << 20) >> 20):
            out.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize(
    ("size", "kind", "words"),
    [
        (1 << 34, tarfile.REGTYPE, "ends behind byte"),
        (1 << 34, tarfile.GNUTYPE_LONGNAME, "a header of 17,179,869,184 bytes"),
        (48 << 20, tarfile.GNUTYPE_LONGLINK, "a header of 50,331,648 bytes"),
        (48 << 20, tarfile.XHDTYPE, "a header of 50,331,648 bytes"),
    ],
)
def test_a_bomb_in_a_compressed_tar_counts_as_damage_at_once(tmp_path, size, kind, words):
    path = bomb(tmp_path / "x.tgz", size, kind)
    began = time.process_time()
    *good, damage = tar_entries(path, load_layout("img2dataset").make_captioned_image)
    assert time.process_time() - began < 0.5
    assert [entry.caption for entry in good] == ["red"]
    assert isinstance(damage, UnusableEntry)
    assert words in damage.reason


def test_a_line_of_a_table_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.corpora.text_files.MAX_FILE_BYTES", 50)
    path = tmp_path / "t.tsv"
    path.write_bytes(b"path\tsentence\na\tb\nc\t" + b"z" * 60)
    rows = read_tsv(path, ("path", "sentence"))
    assert next(rows) == (2, {"path": "a", "sentence": "b"})
    with pytest.raises(OmniError, match=r"t\.tsv:3' has 0\.0 MB"):
        next(rows)
    path.write_bytes(b"p" * 60)
    with pytest.raises(OmniError, match=r"t\.tsv:1'"):
        next(read_tsv(path, ("path", "sentence")))
