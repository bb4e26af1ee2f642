"""Corpora go to shards as they are read: order, several corpora, failures, and memory."""

import itertools
import json
import os
import signal
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.corpora.entries import (
    CaptionedImage,
    ContentPart,
    Conversation,
    TranscribedSpeech,
    UnusableEntry,
    VisualQuestion,
)
from data_prep.key_set import KeySet
from data_prep.media_file import MediaFile
from data_prep.prepare_corpus import _normalize_source, prepare_corpus
from data_prep.samples import image_part, make_sample, make_turn, text_part
from data_prep.shard_folders import open_unfinished_folder
from data_prep.streamed_collection import StreamedCollection
from data_prep.tally import Tally, UnusableCorpusError
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shard_index import build_index, index_path, read_index
from lightning_omni.data.shards import read_samples, read_shard
from lightning_omni.errors import OmniError


def pictures(folder, numbers):
    folder.mkdir()
    for i in numbers:
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"number {i}")
    return folder


def prepare(source, out, **options):
    options = {"split": "train", "facts": {}, **options}
    return prepare_corpus("image_folder", [source], out, **options)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("data_prep.conversion.shard_table.MEDIA_PER_SHARD", 4)
    monkeypatch.setattr("data_prep.conversion.shard_table.SAMPLES_PER_SHARD", 3)


def test_shards_have_their_size_an_index_and_media_in_the_order_of_the_corpus(
    tmp_path, small_shards
):
    out = tmp_path / "out"
    manifest = prepare(pictures(tmp_path / "in", range(10)), out)
    sizes = {shard["path"]: shard["samples"] for shard in manifest["shards"]}
    assert [sizes[f"media/image-train-00000{i}.tar"] for i in range(3)] == [4, 4, 2]
    assert [sizes[f"tasks/t2i-train-00000{i}.tar"] for i in range(4)] == [3, 3, 3, 1]
    assert len(sizes) == 3 + 4 + 4
    for path in sizes:
        assert len(read_index(out / path)) == len(build_index(out / path)) == sizes[path]
        assert index_path(out / path).is_file()
    captions = [
        json.loads(files["json"])["caption"]
        for i in range(3)
        for _, files in read_shard(out / f"media/image-train-00000{i}.tar")
    ]
    assert captions == [f"number {i}" for i in range(10)]
    for i in range(4):
        keys = [key for key, _ in read_shard(out / f"tasks/t2i-train-00000{i}.tar")]
        assert keys == sorted(keys)
    assert len(read_samples(out / "tasks", "t2i", "train")) == 10


def test_a_medium_or_sample_that_comes_twice_is_stored_once(tmp_path):
    source = pictures(tmp_path / "in", range(3))
    (source / "again.png").write_bytes((source / "001.png").read_bytes())
    (source / "again.txt").write_text("number 1")
    (source / "other.png").write_bytes((source / "001.png").read_bytes())
    (source / "other.txt").write_text("another caption")
    manifest = prepare(source, tmp_path / "out")
    sizes = {shard["kind"]: shard["samples"] for shard in manifest["shards"]}
    assert sizes == {"image": 3, "t2i": 4, "caption": 4}
    assert manifest["counts"] == {"caption": {"train": 4}, "t2i": {"train": 4}}


def test_a_second_corpus_of_the_same_split_is_added_behind_the_first(tmp_path, small_shards):
    out = tmp_path / "out"
    prepare(pictures(tmp_path / "one", range(5)), out)
    before = {path: path.read_bytes() for path in out.rglob("*.tar*")}
    manifest = prepare(pictures(tmp_path / "two", range(100, 104)), out, tasks=["caption"])
    assert {path: path.read_bytes() for path in before} == before
    listed = {shard["path"] for shard in manifest["shards"]}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.tar")} == listed
    assert "tasks/caption-train-000003.tar" in listed
    assert manifest["counts"] == {"caption": {"train": 9}, "t2i": {"train": 5}}
    assert [source["entries"] for source in manifest["sources"]] == [5, 4]
    with pytest.raises(OmniError, match="already holds the split train of image_folder"):
        prepare(tmp_path / "two", out)


def test_tasks_that_a_corpus_does_not_give_are_refused(tmp_path):
    with pytest.raises(OmniError, match="gives no samples of vqa"):
        prepare(pictures(tmp_path / "in", range(2)), tmp_path / "out", tasks=["vqa"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_several_sources_and_braces_are_one_corpus(tmp_path, capsys):
    for i in range(3):
        pictures(tmp_path / f"in{i}", range(10 * i, 10 * i + 2))
    args = ["--corpus", "image_folder", "--out", str(tmp_path / "out"), "--source"]
    assert main([*args, f"{tmp_path}/in{{0..1}}", str(tmp_path / "in2")]) == 0
    assert read_manifest(tmp_path / "out")["counts"]["t2i"] == {"train": 6}
    assert main([*args, f"{tmp_path}/in{{0..3}}"]) == 2
    assert "no file or folder" in capsys.readouterr().err


def test_a_folder_written_in_another_way_is_the_same_corpus(tmp_path, monkeypatch):
    pictures(tmp_path / "in", range(2))
    monkeypatch.chdir(tmp_path)
    assert prepare("in/", tmp_path / "out")["sources"][0]["how"] == "in"
    for same in ("in", "./in", "out/..//in/", tmp_path / "in"):
        with pytest.raises(OmniError, match=r"already holds the split train of .*in'"):
            prepare(same, tmp_path / "out")


def test_a_folder_above_what_a_link_leads_to_keeps_its_name(tmp_path, monkeypatch):
    pictures(tmp_path / "in", range(2))
    (tmp_path / "elsewhere/far").mkdir(parents=True)
    pictures(tmp_path / "elsewhere/in", range(5))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/far")
    monkeypatch.chdir(tmp_path)
    assert prepare("link/../in", tmp_path / "out")["sources"][0]["how"] == "link/../in"
    for url in ("{http://a,http://b}/x.tar", "https://a//x.tar"):
        assert _normalize_source(url) == url


def test_a_build_that_fails_leaves_the_folder_as_it_was(tmp_path):
    out = tmp_path / "out"
    prepare(pictures(tmp_path / "one", range(5)), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    bad = pictures(tmp_path / "two", range(4))
    (bad / "002.png").write_bytes(b"broken")
    with pytest.raises(OmniError, match="1 of 4 entries are unusable"):
        prepare(bad, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out", "two"]


def killed_at_rename(number, build):
    """Run `build` in a process that is killed at its rename `number`; return whether it was."""
    pid = os.fork()
    if pid == 0:
        renames = itertools.count()
        replace = Path.replace

        def counted(path, target):
            if next(renames) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(path, target)

        Path.replace = counted
        try:
            build()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def contents(out):
    """Return the samples of all listed shards, each read through its index."""
    shards = read_manifest(out)["shards"]
    assert [len(read_index(out / s["path"])) for s in shards] == [s["samples"] for s in shards]
    return {s["path"]: list(read_shard(out / s["path"])) for s in shards}


def test_a_build_killed_while_it_publishes_leaves_the_old_data_and_is_completed_by_the_next(
    tmp_path, small_shards
):
    first, second = pictures(tmp_path / "one", range(2)), pictures(tmp_path / "two", range(2, 4))
    prepare(first, tmp_path / "whole")
    old = contents(tmp_path / "whole")
    prepare(second, tmp_path / "whole")
    new = contents(tmp_path / "whole")
    for number in itertools.count():
        out = tmp_path / f"out{number}"
        prepare(first, out)
        if not killed_at_rename(number, partial(prepare, second, out)):
            break
        assert contents(out) == old
        prepare(second, out)
        assert contents(out) == new
        assert {p.relative_to(out).as_posix() for p in out.rglob("*.tar")} == set(new)
    assert number > 2 * (len(new) - len(old))  # every shard, its index, and the manifest
    assert contents(out) == new


def test_shards_that_no_manifest_lists_are_removed_by_the_next_build(tmp_path):
    out = tmp_path / "out"
    prepare(pictures(tmp_path / "one", range(2)), out)
    (out / "tasks/t2i-train-000001.tar").write_bytes(b"left of a killed build")
    (out / "media/image-val-000000.tar").write_bytes(b"too")
    manifest = prepare(pictures(tmp_path / "two", range(5, 7)), out, split="val")
    listed = {shard["path"] for shard in manifest["shards"]}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.tar")} == listed


def test_a_folder_of_unfinished_shards_with_files_of_others_is_kept(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/thesis.tex").touch()
    with pytest.raises(OmniError, match=r"thesis\.tex"), open_unfinished_folder(tmp_path / "x"):
        pass
    assert (tmp_path / "x/thesis.tex").exists()


def talk(count, bad):
    for i in range(count):
        if i < bad:
            yield UnusableEntry(f"row {i}", "no words")
        else:
            yield VisualQuestion(f"row {i}", b"", "what", "that")


class Nothing(CorpusBuilder):
    def _add_visual_question(self, entry):
        pass


def tally_of(entries, **options):
    corpus = Nothing("x", "train")
    corpus.add_entries(entries, **options)
    return corpus.tally


def test_a_corpus_that_cannot_pass_stops_at_a_thousand_entries():
    seen = []

    def counted():
        for entry in talk(100_000, 100_000):
            seen.append(entry)
            yield entry

    corpus = Nothing("x", "train")
    with pytest.raises(OmniError, match=r"1000 of 1000 entries are unusable, more than 0\.05"):
        corpus.add_entries(counted())
    assert len(seen) == 1000
    assert tally_of(talk(2000, 2000), is_first=False).bad == 2000


def test_bad_rows_at_the_start_of_a_long_corpus_are_no_reason_to_stop():
    tally = tally_of(talk(10_000, 400))
    tally.check_all("x")
    assert (tally.good, tally.bad, len(tally.left_out)) == (9600, 400, 400)


def test_the_list_of_what_was_left_out_is_bounded_and_the_count_is_not():
    tally = tally_of([*talk(40_000, 0), *talk(2000, 2000)])
    assert (tally.bad, len(tally.left_out)) == (2000, 1000)
    tally.add(tally_of(talk(10, 10)))
    assert (tally.bad, len(tally.left_out)) == (2010, 1000)


def test_a_damaged_file_counts_as_its_entries_in_the_end_and_does_not_stop_the_build():
    tally = tally_of([UnusableEntry("a.tar", "damaged", 1500), *talk(40_000, 0)])
    tally.check_all("x")
    assert (tally.good, tally.bad) == (40_000, 1500)
    tally = tally_of([UnusableEntry("a.tar", "damaged", 1500), *talk(20_000, 0)])
    with pytest.raises(OmniError, match="1500 of 21500 entries"):
        tally.check_all("x")


@pytest.mark.parametrize("at", [0, 700, 2500])
def test_parts_of_a_corpus_stop_where_the_whole_one_does(at):
    rows = [*talk(3000, 0), *talk(1000, 150), *talk(800, 700)]
    parts = [tally_of(rows[:at]), tally_of(rows[at:], is_first=False)]
    total = Tally()
    total.add(parts[0])
    with pytest.raises(UnusableCorpusError) as one:
        tally_of(rows)
    with pytest.raises(UnusableCorpusError) as several:
        total.add(parts[1])
    assert str(one.value) == str(several.value)


def test_blank_words_are_unusable():
    corpus = CorpusBuilder("x", "train")
    blank = [VisualQuestion("q", b"", "what", " "), TranscribedSpeech("t", b"", "\n", "v")]
    corpus.add_entries(blank)
    with pytest.raises(OmniError, match="2 of 2 entries are unusable"):
        corpus.tally.check_all("x")
    assert corpus.tally.left_out == ["q: the answer is blank", "t: the transcript is blank"]


def test_media_that_were_written_are_not_kept_in_memory(tmp_path):
    sizes = []
    with (
        open_unfinished_folder(tmp_path / "x") as (folder, keys),
        StreamedCollection(folder, keys) as collection,
    ):
        tracemalloc.start()
        for i in range(400):
            info = {"caption": str(i)}
            medium = MediaFile(f"k{i}", "image", "png", info, lambda: bytes(200_000))
            turns = (
                make_turn("user", text_part(str(i))),
                make_turn("assistant", image_part(medium)),
            )
            collection.add_sample("train", make_sample("t2i", *turns, meta={}), medium)
            sizes.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sizes[-1] - sizes[0] < 1_000_000  # 80 MB were written
    assert peak < 3_000_000


@pytest.mark.parametrize("words", ["half \ud83d", "a <|mask|>"])
def test_text_that_cannot_be_stored_is_left_out_and_told_of(words, tmp_path):
    lines = [
        [{"role": "user", "content": "hi"}, {"role": "gpt", "content": f"{i}"}] for i in range(30)
    ]
    lines.append([{"role": "user", "content": words}, {"role": "gpt", "content": "x"}])
    source = tmp_path / "m.jsonl"
    source.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    manifest = prepare_corpus("messages", [source], tmp_path / "out", split="train", facts={})
    assert len(manifest["left_out"]) == 1
    assert manifest["counts"] == {"tqa": {"train": 30}}


def test_names_that_are_no_text_are_told_of_all_the_same(tmp_path):
    tally = tally_of([UnusableEntry("a\udcff.jpg", "broken"), *talk(40, 0)])
    assert tally.left_out == ["a\\udcff.jpg: broken"]


def test_an_empty_turn_and_a_name_with_a_zero_byte_are_unusable():
    corpus = CorpusBuilder("x", "train")
    empty = Conversation("a", "chat", (("user", (ContentPart("text", "hi"),)), ("assistant", ())))
    corpus.add_entries([empty, CaptionedImage("b", Path("\0.png"), "a cat")])
    assert corpus.tally.left_out[0] == "a: a turn of the assistant is empty"
    assert "no file" in corpus.tally.left_out[1]


def test_a_set_of_keys_keeps_kinds_apart(tmp_path):
    keys = KeySet(tmp_path / "keys")
    assert keys.add_key("a", "1")
    assert not keys.add_key("a", "1")
    assert keys.add_key("b", "1")
    assert keys.has_key("b", "1")
    assert not keys.has_key("b", "2")
    keys.close()
