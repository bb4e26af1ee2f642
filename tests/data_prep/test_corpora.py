"""Every adapter on a tiny corpus in its published layout, and its mistakes."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from tar_files import write_tar

from data_prep.__main__ import main
from data_prep.corpora import CORPORA
from lightning_omni.cli_help import corpus_layouts
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shards import read_samples, read_shard

WAVE = np.sin(np.arange(24000) * 0.1) * 0.3


def picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour).save(path)


def sound(path, rate=24000):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"format": "MP3"} if path.suffix == ".mp3" else {}
    soundfile.write(path, WAVE, rate, **kind)


def image_folder(root):
    picture(root / "a/cat.png")
    (root / "a/cat.txt").write_text("a red cat")
    return root, {"t2i": 1, "caption": 1}


def audio_transcripts(root):
    sound(root / "anna/one.wav")
    (root / "anna/one.txt").write_text("hello there")
    return root, {"asr": 1, "tts": 1}


def librispeech(root):
    folder = root / "dev-clean/84/121"
    for i in range(2):
        sound(folder / f"84-121-000{i}.flac", 16000)
    (folder / "84-121.trans.txt").write_text("84-121-0000 GO DO\n84-121-0001 YOU HEAR\n")
    return root, {"asr": 2, "tts": 2}


def libritts(root):
    sound(root / "dev/84/121/84_121_000_000.wav")
    (root / "dev/84/121/84_121_000_000.normalized.txt").write_text("Go. Do you hear?")
    return root, {"asr": 1, "tts": 1}


def common_voice(root):
    sound(root / "clips/a.mp3")
    (root / "train.tsv").write_text('client_id\tpath\tsentence\nabc\ta.mp3\tHe said "no"\n')
    return root, {"asr": 1, "tts": 1}


def journeydb(root):
    picture(root / "imgs/000/x.jpg")
    line = {"img_path": "./000/x.jpg", "prompt": "a city", "Task2": {"Caption": "A quiet city."}}
    (root / "train_anno_realease_repath.jsonl").write_text(json.dumps(line) + "\n")
    return root, {"t2i": 1, "caption": 1}


def blip3o(root):
    root.mkdir(exist_ok=True)
    write_tar(root / "00000.tar", [("k.jpg", jpeg("black")), ("k.txt", b"a dark room")])
    return root, {"t2i": 1, "caption": 1}


def llava_onevision(root):
    picture(root / "images/x.png")
    talk = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A wall."},
        {"from": "human", "value": "Its colour?"},
        {"from": "gpt", "value": "Red."},
    ]
    (root / "data.json").write_text(json.dumps([{"image": "images/x.png", "conversations": talk}]))
    return root / "data.json", {"vqa": 2}


def jpeg(colour="red"):
    raw = io.BytesIO()
    Image.new("RGB", (20, 16), colour).save(raw, "JPEG")
    return raw.getvalue()


def clip(kind="FLAC", hertz=0.1):
    raw = io.BytesIO()
    soundfile.write(raw, np.sin(np.arange(24000) * hertz) * 0.3, 24000, format=kind)
    return raw.getvalue()


def table_of(path, rows):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def img2dataset(root):
    facts = json.dumps({"caption": "a red wall", "url": "http://x/y.jpg", "key": "000000000"})
    first = {"jpg": jpeg(), "txt": b"a red wall", "json": facts.encode()}
    write_tar(root / "00000.tar", [(f"000000000.{k}", v) for k, v in first.items()])
    second = {"jpg": jpeg("blue"), "txt": b"a blue wall", "json": b"{}"}
    write_tar(root / "00001.tar", [(f"000010000.{k}", v) for k, v in second.items()])
    (root / "00000_stats.json").write_text(json.dumps({"count": 2, "successes": 1}))
    table_of(root / "00000.parquet", [{"key": "000000000", "status": "success"}])
    return root, {"t2i": 2, "caption": 2}


def speech_tars(root):
    facts = {"id": "EN_B00000_S00000_W000000", "text": " Go on.", "speaker": "EN_B00000_S00000"}
    facts |= {"language": "en", "duration": 1.0, "dnsmos": 3.2}
    name = "EN_B00000_S00000_W000000"
    files = [(f"{name}.mp3", clip("MP3")), (f"{name}.json", json.dumps(facts).encode())]
    return write_tar(root / "EN-B000000.tar", files), {"asr": 1, "tts": 1}


def parquet_speech(root):
    rows = [
        {"id": f"{i}", "audio": {"bytes": clip(hertz=0.1 + i / 99), "path": None}, "text": words}
        for i, words in enumerate(["AS <COMMA> THEY SAY <PERIOD>", "Well"])
    ]
    table_of(root / "train-00000-of-00001.parquet", [{**row, "speaker": "N/A"} for row in rows])
    return root, {"asr": 2, "tts": 2}


def parquet_dialogues(root):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    more = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    order = [{"role": "system", "content": "Be brief."}]
    rows = [
        {"id": "a", "messages": talk, "source": "x"},
        {"id": "b", "messages": order + talk + more, "source": "y"},
    ]
    table_of(root / "train.parquet", rows)
    return root, {"tqa": 2}


def spoken_dialogues(root):
    row = {"split_name": "qa", "index": "1", "round": "None", "question": "Who are you?"}
    row |= {"question_audio": {"bytes": clip("WAV"), "path": "1.wav"}, "answer": "A box."}
    row |= {"answer_audio": {"bytes": clip("WAV", 0.2), "path": "2.wav"}}
    table_of(root / "train.parquet", [row])
    return root, {"sqa": 1}


def test_llava_onevision_is_read_from_parquet_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture(tmp_path / "x.png")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A wall."}]
    rows = [
        {"image": {"bytes": (tmp_path / "x.png").read_bytes(), "path": "x"}, "conversations": talk},
        {"image": None, "conversations": talk},
    ]
    (tmp_path / "in").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in/a.parquet")
    out = tmp_path / "out"
    args = ["--corpus", "llava_onevision", "--source", str(tmp_path / "in"), "--out", str(out)]
    assert main(args) == 0
    (sample,) = read_samples(out / "tasks", "vqa", "train")
    assert sample.meta["question"] == "What?"
    assert len(read_samples(out / "tasks", "tqa", "train")) == 1  # the question without a picture


def messages(root):
    picture(root / "x.png")
    sound(root / "x.wav")
    lines = [
        {
            "messages": [
                {"role": "user", "content": "Convert the speech to text.\n<|audio|>"},
                {"role": "assistant", "content": "hello"},
            ],
            "audios": ["x.wav"],
        },
        {
            "messages": [
                {"role": "human", "content": "What is it?\n<|image|>"},
                {"role": "gpt", "content": "A wall."},
            ],
            "images": ["x.png"],
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "<|image|> Bye."},
            ],
            "images": ["x.png"],
        },
    ]
    (root / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / "talk.jsonl", {"asr": 1, "vqa": 1, "chat": 1}


LAYOUTS = [
    image_folder,
    audio_transcripts,
    librispeech,
    libritts,
    common_voice,
    journeydb,
    blip3o,
    llava_onevision,
    messages,
    img2dataset,
    speech_tars,
    parquet_speech,
    parquet_dialogues,
    spoken_dialogues,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_a_corpus_becomes_samples_whose_media_are_in_the_shards(layout, tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    source, wanted = layout(root)
    out = tmp_path / "out"
    args = ["--corpus", layout.__name__, "--source", str(source), "--out", str(out)]
    assert main(args) == 0
    samples = {task: read_samples(out / "tasks", task, "train") for task in wanted}
    assert {task: len(found) for task, found in samples.items()} == wanted
    manifest = read_manifest(out)
    assert {task: n["train"] for task, n in manifest["counts"].items()} == wanted
    keys = {k for path in (out / "media").glob("*.tar") for k, _ in read_shard(path)}
    named = {p.key for s in samples.values() for x in s for t in x.turns for p in t.parts if p.key}
    assert named == keys


def test_speech_is_stored_at_sixteen_kilohertz_and_keeps_its_length(tmp_path):
    audio_transcripts(tmp_path / "in")
    out = tmp_path / "out"
    args = ["--corpus", "audio_transcripts", "--source", str(tmp_path / "in"), "--out", str(out)]
    assert main(args) == 0
    ((_, files),) = read_shard(next((out / "media").glob("speech-train-*.tar")))
    wave, rate = soundfile.read(io.BytesIO(files["flac"]))
    assert rate == 16000
    assert abs(len(wave) / rate - 1) < 0.01


def test_every_layout_has_a_corpus_here():
    assert (
        sorted(layout.__name__ for layout in LAYOUTS) == sorted(CORPORA) == sorted(corpus_layouts())
    )


def test_two_splits_share_a_folder_and_the_same_split_twice_is_refused(tmp_path, capsys):
    image_folder(tmp_path / "in")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in")]
    args += ["--out", str(tmp_path / "out"), "--split"]
    assert main([*args, "train"]) == 0
    assert main([*args, "val"]) == 0
    assert len(read_manifest(tmp_path / "out")["shards"]) == 6
    assert main([*args, "val"]) == 2
    assert "already holds the split val" in capsys.readouterr().err


def test_the_same_corpus_gives_the_same_bytes(tmp_path):
    image_folder(tmp_path / "in")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in"), "--out"]
    for name in ("one", "two"):
        assert main([*args, str(tmp_path / name)]) == 0
    first, second = (read_manifest(tmp_path / name)["shards"] for name in ("one", "two"))
    assert first == second


MISTAKES = {
    "no_placeholder_file": (
        {"messages": [{"role": "user", "content": "<|image|>"}]},
        "line 1 has more",
    ),
    "file_too_many": (
        {"messages": [{"role": "user", "content": "hi"}], "images": ["a.png"]},
        "lists 1 images more",
    ),
    "unknown_role": ({"messages": [{"role": "robot", "content": "hi"}]}, "role 'robot'"),
    "no_messages": ({"talk": []}, "has no messages"),
    "special": (
        {"messages": [{"role": "user", "content": "<|mask|>"}, {"role": "gpt", "content": "x"}]},
        "special token <|mask|>",
    ),
    "gone": (
        {"messages": [{"role": "user", "content": "<|image|>"}], "images": ["gone.png"]},
        "gone.png",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_messages_names_the_line(name, tmp_path, capsys):
    plain, words = MISTAKES[name]
    (tmp_path / "m.jsonl").write_text(json.dumps(plain) + "\n")
    args = ["--corpus", "messages", "--source", str(tmp_path / "m.jsonl")]
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_one_unreadable_picture_of_many_is_counted_and_reported(tmp_path, capsys):
    for i in range(40):
        picture(tmp_path / f"in/{i}.png", (i, 0, 0))
        (tmp_path / f"in/{i}.txt").write_text(f"number {i}")
    (tmp_path / "in/7.png").write_bytes(b"broken")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in"), "--out"]
    assert main([*args, str(tmp_path / "out")]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert len(manifest["left_out"]) == 1
    assert "7.png" in manifest["left_out"][0]
    assert manifest["counts"]["t2i"]["train"] == 39


def test_too_many_unreadable_pictures_stop_the_build(tmp_path, capsys):
    for i in range(4):
        picture(tmp_path / f"in/{i}.png", (i, 0, 0))
        (tmp_path / f"in/{i}.txt").write_text(f"number {i}")
    (tmp_path / "in/2.png").write_bytes(b"broken")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in"), "--out"]
    assert main([*args, str(tmp_path / "out")]) == 2
    assert "1 of 4 entries are unusable" in capsys.readouterr().err


def test_a_picture_without_a_caption_is_named(tmp_path, capsys):
    picture(tmp_path / "in/lonely.png")
    args = ["--corpus", "image_folder", "--source", str(tmp_path / "in"), "--out"]
    assert main([*args, str(tmp_path / "out")]) == 2
    assert "lonely.txt" in capsys.readouterr().err


def test_a_damaged_parquet_file_is_named_and_a_row_without_a_picture_is_left_out(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    from data_prep.corpora.llava_onevision import read

    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    (entry,) = read(tmp_path / "bad.parquet", split="train")
    assert "bad.parquet" in entry.origin
    assert "not readable Parquet" in entry.reason
    turns = [{"from": "human", "value": "what"}, {"from": "gpt", "value": "that"}]
    rows = [
        {"image": {"bytes": None}, "conversations": turns},
        {"image": {"bytes": b"x"}, "conversations": None},
    ]
    write_table(arrow.Table.from_pylist(rows), tmp_path / "odd.parquet")
    first, second = read(tmp_path / "odd.parquet", split="train")
    assert first.picture == b""
    assert "no turn of a human" in second.reason


def many(folder, layout):
    """Thirty entries and a bad one, less than 5 %; what is said of it."""
    folder.mkdir()
    if layout == "common_voice":
        rows = [*(f"c{i}\tclip.mp3\tnumber {i}" for i in range(30)), "c31\t\tno clip"]
        (folder / "train.tsv").write_text("\n".join(["client_id\tpath\tsentence", *rows, ""]))
        clip = folder / "clips" / "clip.mp3"
        clip.parent.mkdir()
        soundfile.write(clip, np.full(8000, 0.1, np.float32), 16000, format="MP3")
        return folder, "no value in column 'path'"
    if layout == "librispeech":
        chapter = folder / "1" / "2"
        chapter.mkdir(parents=True)
        lines = [*(f"1-2-{i:04d} WORD" for i in range(30)), "1-2-0099"]
        (chapter / "1-2.trans.txt").write_text("\n".join(lines) + "\n")
        for i in range(30):
            soundfile.write(
                chapter / f"1-2-{i:04d}.flac", np.full(8000, (i + 1) / 99, np.float32), 16000
            )
        return folder, "no words"
    if layout == "image_folder":
        for i in range(30):
            picture(folder / f"{i}.png", (i, 0, 0))
            (folder / f"{i}.txt").write_text(f"number {i}")
        (folder / "3.txt").unlink()
        return folder, "has no '3.txt' beside it"
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = [*(json.dumps({"messages": talk, "n": i}) for i in range(30)), "{not json"]
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "m.jsonl", "is not JSON"


@pytest.mark.parametrize("layout", ["common_voice", "librispeech", "image_folder", "messages"])
def test_one_malformed_row_of_many_is_counted_and_reported(layout, tmp_path, capsys):
    source, why = many(tmp_path / "in", layout)
    args = ["--corpus", layout, "--source", str(source), "--out", str(tmp_path / "out")]
    assert main(args) == 0, capsys.readouterr().err
    (left_out,) = read_manifest(tmp_path / "out")["left_out"]
    assert why in left_out
