"""A corpus is converted to the same bytes by every executor, and goes on where it was killed."""

import gzip
import importlib.util
import io
import json
import os
import signal
import tarfile
from functools import partial
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image
from several_processes import run_processes
from tar_files import write_tar

from data_prep import prepare_corpus as prepare_module
from data_prep.__main__ import main
from data_prep.conversion import pieces
from data_prep.conversion.corpus_job import CorpusJob, CorpusRequest
from data_prep.conversion.piece_file import read_rows, read_tally
from data_prep.corpora import CORPORA, load_layout
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.prepare_corpus import prepare_corpus
from data_prep.shard_folders import open_unfinished_folder
from data_prep.shard_stream import tar_end, tar_item
from data_prep.streamed_collection import StreamedCollection
from data_prep.tally import UnusableCorpusError
from lightning_omni.data.manifest import read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.jobs import worker
from lightning_omni.jobs.options import ExecutorOptions


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch):
    monkeypatch.setattr(worker, "POLL_S", 0.01)


def png(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tars(tmp_path):
    """Five tars of pictures, some of which come twice, and one without a caption."""
    folder = tmp_path / "in"
    folder.mkdir()
    for tar in range(5):
        files = {}
        for i in range(9):
            number = 7 * tar + i
            files[f"{tar}{i}.png"] = png(number)
            files[f"{tar}{i}.txt"] = f"number {number}".encode()
        if tar == 3:
            del files["31.txt"]
        write_tar(folder / f"{tar:05d}.tar", files.items())
    return folder


def prepare(source, out, corpus="img2dataset", **options):
    return prepare_corpus(corpus, [source], out, split="train", facts={}, **options)


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def shards_of(folder):
    return {name: raw for name, raw in contents(folder).items() if ".tar" in name}


@pytest.fixture
def wanted(tars, tmp_path):
    prepare(tars, tmp_path / "wanted")
    return contents(tmp_path / "wanted")


def nothing_is_left(folder):
    return not list(folder.glob("*.partial"))


def test_shards_are_those_of_one_pass_over_the_corpus(tars, wanted, tmp_path):
    with (
        open_unfinished_folder(tmp_path / "x") as (folder, keys),
        StreamedCollection(folder, keys) as collection,
    ):
        builder = CorpusBuilder("img2dataset", "train", collection)
        builder.add_entries(load_layout("img2dataset").read(tars, split="train"))
        collection.finish_shards("train")
        assert shards_of(folder) == {n: raw for n, raw in wanted.items() if ".tar" in n}
    manifest = json.loads(wanted["manifest.json"])
    assert manifest["counts"] == {"caption": {"train": 37}, "t2i": {"train": 37}}
    assert [(s["entries"], s["left_out"]) for s in manifest["sources"]] == [(44, 1)]
    assert "00003.tar:31" in manifest["left_out"][0]


def test_two_processes_write_the_same(tars, wanted, tmp_path):
    prepare(tars, tmp_path / "out", options=ExecutorOptions(processes=2))
    assert contents(tmp_path / "out") == wanted
    assert nothing_is_left(tmp_path)


def test_ranks_of_torchrun_meet_in_the_folder(tars, wanted, tmp_path):
    options = ExecutorOptions("torchrun")
    run_processes(lambda rank: prepare(tars, tmp_path / "out", options=options), 2, tmp_path)
    assert contents(tmp_path / "out") == wanted
    assert nothing_is_left(tmp_path)
    run_processes(lambda rank: prepare(tars, tmp_path / "out", options=options), 2, tmp_path)
    assert contents(tmp_path / "out") == wanted


def test_parts_of_an_array_finish_in_any_order(tars, wanted, tmp_path):
    made = [
        prepare(tars, tmp_path / "out", options=ExecutorOptions("slurm-array", part=p, parts=3))
        for p in (2, 0, 1, 1)
    ]
    assert made[:2] == [{}, {}]
    assert made[2] == made[3] == read_manifest(tmp_path / "out")
    assert contents(tmp_path / "out") == wanted
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_ray_write_the_same(tars, wanted, tmp_path):
    prepare(tars, tmp_path / "out", options=ExecutorOptions("ray", 2))
    assert contents(tmp_path / "out") == wanted
    assert nothing_is_left(tmp_path)


def killed(run, at, monkeypatch):
    """Let a process convert until step number `at`, where it is killed; return what it did."""
    done, read = [], os.pipe()
    original = CorpusJob.run_step

    def counted(job, step):
        if len(done) == at:
            os.write(read[1], json.dumps(done).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(step.name)
        return original(job, step)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(CorpusJob, "run_step", counted)
        run()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(read[1])
    with os.fdopen(read[0]) as file:
        return json.loads(file.read())


@pytest.mark.parametrize("at", [0, 3, 5, 7])
def test_a_killed_process_costs_the_step_it_was_at(at, tars, wanted, tmp_path, monkeypatch):
    run = partial(prepare, tars, tmp_path / "out")
    done = killed(run, at, monkeypatch)
    assert not list(tmp_path.glob("out/*/*"))
    assert len(list(tmp_path.glob("out.*.partial"))) == 1
    original = CorpusJob.run_step
    monkeypatch.setattr(
        CorpusJob, "run_step", lambda j, s: (done.append(s.name), original(j, s))[1]
    )
    run()
    assert len(done) == len(set(done)) == 5 + 1 + 3
    assert contents(tmp_path / "out") == wanted
    assert nothing_is_left(tmp_path)


def test_a_process_beside_a_killed_one_takes_over_its_piece(tars, wanted, tmp_path, monkeypatch):
    original, marker = CorpusJob.run_step, tmp_path / "killed"

    def dies_once(job, step):
        if step.name == "piece-000001" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(job, step)

    monkeypatch.setattr(CorpusJob, "run_step", dies_once)
    options = ExecutorOptions("torchrun")
    with pytest.raises(AssertionError, match=r"-9"):
        run_processes(lambda rank: prepare(tars, tmp_path / "out", options=options), 2, tmp_path)
    assert contents(tmp_path / "out") == wanted


def test_a_corpus_that_was_changed_begins_anew(tars, wanted, tmp_path, monkeypatch):
    killed(partial(prepare, tars, tmp_path / "out"), 3, monkeypatch)
    write_tar(tars / "00009.tar", {"a.png": png(99), "a.txt": b"new"}.items())
    manifest = prepare(tars, tmp_path / "out")
    assert manifest["counts"]["t2i"] == {"train": 38}
    assert nothing_is_left(tmp_path)


def test_a_file_that_changes_during_the_build_is_told_of(tars, tmp_path):
    job = CorpusJob(CorpusRequest("img2dataset", (str(tars),), tmp_path / "x", "train", (), {}))
    write_tar(tars / "00002.tar", {"a.png": b"", "a.txt": b""}.items())
    with pytest.raises(OmniError, match=r"00002.tar' has \d+ bytes but had \d+ when the build"):
        list(job.reader.read_entries(job.pieces[2]))


def test_an_unusable_corpus_leaves_nothing_and_says_so_in_every_process(tars, tmp_path):
    for path in tars.glob("*[24].tar"):
        write_tar(path, {"a.txt": b"no picture", "b.txt": b"nor here"}.items())
    for options in (ExecutorOptions(processes=1), ExecutorOptions(processes=2)):
        with pytest.raises(OmniError, match=r"5 of 31 entries are unusable, more than 0\.05"):
            prepare(tars, tmp_path / "out", options=options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    manifest = prepare(tars, tmp_path / "out", max_unusable=0.2)
    assert (manifest["sources"][0]["entries"], manifest["sources"][0]["left_out"]) == (26, 5)
    assert len(manifest["left_out"]) == 5


def test_a_process_that_starts_after_another_has_failed_leaves_nothing(tars, tmp_path, monkeypatch):
    for path in tars.glob("*[24].tar"):
        write_tar(path, {"a.txt": b"no picture", "b.txt": b"nor here"}.items())
    real = prepare_module.run_job

    def run_with_late_process(load, options, *, processes):
        try:
            real(load, options, processes=processes)
        finally:
            late = worker.Worker(load(1))
            late.agree_on_plan()
            late.claims.close()

    monkeypatch.setattr(prepare_module, "run_job", run_with_late_process)
    with pytest.raises(UnusableCorpusError, match="are unusable"):
        prepare(tars, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def pictures(folder, count):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:03d}.png").write_bytes(png(i))
        (folder / f"{i:03d}.txt").write_text(f"number {i}")
    return folder


def test_a_list_of_files_is_cut_into_pieces_and_gives_the_same(tmp_path, monkeypatch):
    source = pictures(tmp_path / "in", 10)
    prepare(source, tmp_path / "whole", "image_folder")
    monkeypatch.setattr(pieces, "ENTRIES_PER_PIECE", 3)
    for i, order in enumerate([(0, 1, 2), (2, 1, 0)]):
        for part in order:
            options = ExecutorOptions("slurm-array", part=part, parts=3)
            prepare(source, tmp_path / f"out{i}", "image_folder", options=options)
        assert contents(tmp_path / f"out{i}") == contents(tmp_path / "whole")


def test_pieces_of_a_list_are_read_in_any_order_and_passed_over_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "ENTRIES_PER_PIECE", 3)
    source, layout = pictures(tmp_path / "in", 8), load_layout("image_folder")
    found = list(pieces.divide_into_pieces(layout, [source], split="train"))
    assert [(p.start, p.size) for p in found] == [(0, 3), (3, 3), (6, 2)]
    reader = pieces.PieceReader(layout, "train")
    (source / "001.txt").unlink()  # an entry that is passed over is not made
    for number in (1, 2, 0, 2):
        names = [entry.origin[-7:-4] for entry in reader.read_entries(found[number])]
        assert names == [f"{i:03d}" for i in range(8)][3 * number : 3 * number + 3]
    (source / "000.png").unlink()
    with pytest.raises(OmniError, match="has 1 entries but had 2 when the build began"):
        list(pieces.PieceReader(layout, "train").read_entries(found[2]))


@pytest.fixture
def large_tar(tmp_path):
    """A tar of pictures with folders, a long name, two files of a medium, and a bad sample."""
    folder = tmp_path / "large"
    folder.mkdir()
    with tarfile.open(folder / "all.tar", "w") as tar:
        for i in range(40):
            name = f"{'long' * 40 if i == 20 else ''}{i:02d}"
            files = {"png": png(i), "txt": f"number {i}".encode(), "json": b"{}" * (i % 3)}
            if i == 30:
                del files["txt"]
            tar.addfile(tarfile.TarInfo(f"folder{i // 10}"))
            for extension, content in files.items():
                header = tarfile.TarInfo(f"folder{i // 10}/{name}.{extension}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return folder


def names_of(entries):
    return [(entry.origin, getattr(entry, "caption", "-")) for entry in entries]


def parts_of(source, layout="img2dataset"):
    return list(pieces.divide_into_pieces(load_layout(layout), [source], split="train"))


@pytest.mark.parametrize("bytes_per_piece", [1, 3000, 20_000])
def test_parts_of_a_large_tar_are_the_tar(large_tar, bytes_per_piece, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", bytes_per_piece)
    found, layout = parts_of(large_tar), load_layout("img2dataset")
    assert len(found) == (40 if bytes_per_piece == 1 else len(found)) > 3
    assert sum(p.part.size for p in found) == (large_tar / "all.tar").stat().st_size
    assert min(p.part.size for p in found[:-1]) >= bytes_per_piece
    reader = pieces.PieceReader(layout, "train")
    read = [names_of(reader.read_entries(piece)) for piece in found]
    assert list(chain(*read)) == names_of(layout.read(large_tar, split="train"))
    assert all(read)


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_that_share_a_large_tar_write_the_same(
    large_tar, processes, tmp_path, monkeypatch
):
    prepare(large_tar, tmp_path / "whole")
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", 4000)
    killed(partial(prepare, large_tar, tmp_path / "out"), 4, monkeypatch)
    prepare(large_tar, tmp_path / "out", options=ExecutorOptions(processes=processes))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert nothing_is_left(tmp_path)


def test_a_large_tar_is_read_up_to_where_it_is_damaged(large_tar, monkeypatch):
    path, layout = large_tar / "all.tar", load_layout("img2dataset")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"folder3/35.png")
    raw[at : at + 100] = bytes(100)
    path.write_bytes(raw)
    whole = names_of(layout.read(large_tar, split="train"))
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", 4000)
    found, reader = parts_of(large_tar), pieces.PieceReader(layout, "train")
    read = [entry for piece in found for entry in reader.read_entries(piece)]
    assert names_of(read) == whole
    assert len(whole) == 36
    assert f"samples behind byte {found[-1].part.start} (" in read[-1].reason


def test_tars_with_a_header_for_all_files_and_compressed_ones_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", 1)
    files = [(f"{i}.{e}", raw) for i in range(4) for e, raw in (("png", png(i)), ("txt", b"a"))]
    (tmp_path / "in").mkdir()
    header = {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": "for all"}}
    write_tar(tmp_path / "in/a.tar", files, **header)
    write_tar(tmp_path / "in/b.tar", files)
    (tmp_path / "in/b.tar.gz").write_bytes(gzip.compress((tmp_path / "in/b.tar").read_bytes()))
    found = parts_of(tmp_path / "in")
    assert [(p.file.name, p.part is None) for p in found] == [
        ("a.tar", True),
        *[("b.tar", False)] * 4,
        ("b.tar.gz", True),
    ]


def test_a_layout_that_reads_no_parts_gets_whole_files(large_tar, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", 1)
    whole = load_layout("img2dataset")
    own = SimpleNamespace(
        SUFFIXES=(".tar",), read=lambda source, *, split, folder: whole.read(source, split=split)
    )
    (piece,) = pieces.divide_into_pieces(own, [large_tar], split="train")
    read = pieces.PieceReader(own, "train").read_entries(piece)
    assert names_of(read) == names_of(whole.read(large_tar, split="train"))


def test_parts_of_a_large_parquet_file_are_row_groups(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    rows = [
        {"messages": [{"role": r, "content": f"{r} {i}"} for r in ("user", "assistant")]}
        for i in range(100)
    ]
    (tmp_path / "in").mkdir()
    write_table(arrow.Table.from_pylist(rows), tmp_path / "in/a.parquet", row_group_size=10)
    layout = load_layout("parquet_dialogues")
    whole = list(layout.read(tmp_path / "in", split="train"))
    prepare(tmp_path / "in", tmp_path / "whole", "parquet_dialogues")
    monkeypatch.setattr(pieces, "BYTES_PER_PIECE", 600)
    found = parts_of(tmp_path / "in", "parquet_dialogues")
    assert 3 < len(found) < 10
    reader = pieces.PieceReader(layout, "train")
    assert [e for piece in found for e in reader.read_entries(piece)] == whole
    killed(partial(prepare, tmp_path / "in", tmp_path / "out", "parquet_dialogues"), 2, monkeypatch)
    two = ExecutorOptions(processes=2)
    prepare(tmp_path / "in", tmp_path / "out", "parquet_dialogues", options=two)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_layouts_of_files_are_read_file_by_file_and_others_as_lists():
    by_file = {name for name in CORPORA if getattr(load_layout(name), "SUFFIXES", ())}
    tars, parquets = {"blip3o", "img2dataset", "speech_tars"}, {"llava_onevision"}
    assert by_file == tars | parquets | {"parquet_speech", "parquet_dialogues", "spoken_dialogues"}


def test_sounds_beside_parquet_in_a_subfolder_are_found_from_the_source(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    (tmp_path / "in/data").mkdir(parents=True)
    soundfile.write(tmp_path / "in/one.wav", np.ones(8000, dtype=np.float32) / 9, 16_000)
    rows = [{"audio": {"bytes": None, "path": "one.wav"}, "text": "one"}]
    write_table(arrow.Table.from_pylist(rows), tmp_path / "in/data/0.parquet")
    manifest = prepare(tmp_path / "in", tmp_path / "out", "parquet_speech")
    assert manifest["counts"] == {"asr": {"train": 1}, "tts": {"train": 1}}


def test_the_file_of_a_piece_tells_its_items_and_what_is_damaged(tars, tmp_path):
    job = CorpusJob(CorpusRequest("img2dataset", (str(tars),), tmp_path / "x", "train", (), {}))
    job.work.mkdir()
    step = job.phase_steps(0)[3]
    assert job.run_step(step) == 8
    path = job.work / step.output
    rows = list(read_rows(path))
    assert [row.kind for row in rows[:3]] == ["media/image", "tasks/t2i", "tasks/caption"]
    assert len(rows) == 24
    tally = read_tally(path)
    assert (tally.good, tally.bad, tally.good_before) == (8, 1, [1])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OmniError, match="is damaged; delete it"):
        read_tally(path)
    job.close()


def test_items_and_their_end_are_a_tar_as_tarfile_writes_it(tmp_path):
    files = [("a.png", b"x" * 700), ("a.json", b"{}"), ("b" * 96 + ".txt", b"")]
    path = write_tar(tmp_path / "x.tar", files, format=0)
    items = tar_item(files)
    assert items + tar_end(len(items)) == path.read_bytes()


def test_progress_names_entries_and_the_time_left(tars, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("lightning_omni.jobs.progress.EVERY_S", 0.0)
    caplog.set_level("INFO")
    prepare(tars, tmp_path / "out")
    lines = [line for line in caplog.messages if line.startswith("preparing: ")]
    assert any("2 of 5 pieces" in one and "entries/s here" in one for one in lines)
    assert any(one.endswith("s left") for one in lines)
    assert any("of 3 shards" in one for one in lines)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--preset", "mini", "--executor", "ray"], "--executor ray is only used with --corpus"),
        (["--corpus", "messages", "--part", "1"], "belong to --executor slurm-array"),
        (["--corpus", "messages", "--processes", "0"], "processes is 0, wanted at least 1"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(args, sentence, tmp_path, capsys):
    args += ["--out", str(tmp_path / "out")]
    assert main(args if "mini" in args else [*args, "--source", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
