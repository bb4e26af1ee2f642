"""Written questions and captions become spoken ones, in an ordinary prepared folder."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_prep.__main__ import main
from data_prep.speech import speaker_pool
from data_prep.speech.speakable import RULES
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shard_index import index_path, read_index
from lightning_omni.data.shards import read_samples, read_shard
from lightning_omni.files import file_checksums

TONE = "tone.Tone"
LETTERS = "Answer with the option's letter from the given choices directly."
PAIRS = [
    ("What is it?", "A **red** wall."),
    ("How many dogs are there?", "2 dogs."),
    (f"What colour is it?\nA. red\nB. blue\n{LETTERS}", "B"),
    (f"What colour is it?\nA. blue\nB. green\n{LETTERS}", "A"),  # opened, it is the one before
    ("Which of the following is red?\nA. the wall\nB. the door", "A"),
    ("What colour is it?\nA. red\nB. blue", "C"),
    ("What is $x^2$ if x = 3?", "9"),
    ("What is the output of this code?", "1"),
    ("Why?", "because " * 101),
    ("Where is it from?", "www.example.test"),
    ("Is it unspeakable?", "no"),
    ("Is it said slowly?", "no"),
]
SVQA = {
    "kept": 4, "needs the options": 1, "unclear choice": 1, "maths": 1, "code": 1,
    "long answer": 1, "link": 1, "not synthesized": 1, "long speech": 1,
}  # fmt: skip
DRAW = "Generate an image based on the provided text description."
CAPTIONS = {"a red wall": "red", "a blue & white door": "blue", "a city --ar 16:9": "green"}


@pytest.fixture(autouse=True)
def classes_are_found(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def message(name, user, assistant):
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": turns, "images": [name]}


def prepare_corpus(root, out, *, pairs=PAIRS, captions=CAPTIONS, split="train"):
    """Prepare questions about one picture, and captions of other pictures."""
    picture(root / "x.png", "black")
    lines = [message("x.png", f"{question}\n<|image|>", answer) for question, answer in pairs]
    for caption, colour in captions.items():
        picture(root / f"{colour}.png", colour)
        lines.append(message(f"{colour}.png", f"{DRAW}\n{caption}", "<|image|>"))
    (root / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = ["--corpus", "messages", "--source", str(root / "talk.jsonl"), "--split", split]
    assert main([*args, "--out", str(out)]) == 0
    return out


@pytest.fixture
def written(tmp_path):
    return prepare_corpus(tmp_path / "corpus", tmp_path / "written")


def speak(data, out, *args):
    cache = ["--cache", str(Path(out).parent / "cache")]
    synthesizer = [] if "--synthesizer" in args else ["--synthesizer", TONE]
    return main(["--speak", str(data), "--out", str(out), *synthesizer, *cache, *args])


def test_samples_are_spoken_and_what_is_left_out_is_counted(written, tmp_path, caplog):
    caplog.set_level("INFO")
    assert speak(written, tmp_path / "spoken") == 0
    (entry,) = read_manifest(tmp_path / "spoken")["spoken"]
    assert entry["samples"]["svqa"]["train"] == SVQA
    assert sum(SVQA.values()) == len(PAIRS)
    assert entry["samples"]["s2i"]["train"] == {"kept": 2, "code": 1}
    assert set(SVQA) <= {"kept", *RULES}
    rows = [line.split() for line in caplog.text.splitlines() if "long answer" in line]
    assert rows[-1][-2:] == ["1", "0"]


def test_the_folder_is_a_prepared_folder(written, tmp_path):
    out = tmp_path / "spoken"
    assert speak(written, out) == 0
    manifest = read_manifest(out)
    assert manifest["counts"] == {"s2i": {"train": 2}, "svqa": {"train": 4}}
    assert "tone.Tone" in (out / "ATTRIBUTION.md").read_text()
    assert {path.name for path in out.iterdir()} <= {
        "manifest.json", "ATTRIBUTION.md", "media", "tasks", ".lock",
    }  # fmt: skip
    sums = file_checksums(out)
    for shard in manifest["shards"]:
        assert sums[shard["path"]] == shard["sha256"]
        assert index_path(out / shard["path"]).is_file()
        assert len(read_index(out / shard["path"])) == shard["samples"]
    media = {kind: {} for kind in ("image", "speech")}
    for kind, found in media.items():
        found |= dict(read_shard(out / f"media/{kind}-train-000000.tar"))
    for task in ("svqa", "s2i"):
        for sample in read_samples(out / "tasks", task, "train"):
            for part in (part for turn in sample.turns for part in turn.parts if part.key):
                assert part.key in media[part.modality]
    assert len(media["image"]) == 3  # one of the questions, and two captioned ones
    wave, rate = soundfile.read(io.BytesIO(next(iter(media["speech"].values()))["flac"]))
    assert (rate, wave.ndim) == (16000, 1)


def test_many_voices_ask_and_one_answers(tmp_path):
    pairs = [(f"Is number {i} red?", f"No, it has {i}%.") for i in range(40)]
    data = prepare_corpus(tmp_path / "corpus", tmp_path / "written", pairs=pairs)
    assert speak(data, tmp_path / "a") == 0
    assert speak(data, tmp_path / "b", "--seed", "1") == 0
    first, second = (
        {s.meta["question"]: s.meta for s in read_samples(tmp_path / n / "tasks", "svqa", "train")}
        for n in "ab"
    )
    assert {meta["voice"] for meta in first.values()} == {"tone-0", "tone-1", "tone-2"}
    assert {meta["answer_voice"] for meta in first.values()} == {"tone-answer"}
    assert any(first[q]["voice"] != second[q]["voice"] for q in first)
    meta = first["Is number 7 red?"]
    assert (meta["answer"], meta["answer_text"]) == ("No, it has 7%.", "No, it has 7 percent.")
    assert meta["text"] == "Is number 7 red?"  # what transcribe_first reads


def test_the_answer_is_text_and_speech_and_the_question_is_speech_and_picture(written, tmp_path):
    assert speak(written, tmp_path / "spoken") == 0
    samples = read_samples(tmp_path / "spoken/tasks", "svqa", "train")
    by_question = {sample.meta["question"]: sample for sample in samples}
    request, answer = by_question["What is it?"].turns
    assert [part.modality for part in request.parts] == ["speech", "image"]
    assert [part.modality for part in answer.parts] == ["text", "speech"]
    assert answer.parts[0].text == "A red wall."
    opened = by_question["What colour is it?"]
    assert opened.turns[1].parts[0].text == opened.meta["answer"] == "blue"
    (door,) = (
        s for s in read_samples(tmp_path / "spoken/tasks", "s2i", "train")
        if s.meta["text"] != "a red wall"
    )  # fmt: skip
    assert door.meta["text"] == "a blue and white door"
    assert [part.modality for turn in door.turns for part in turn.parts] == ["speech", "image"]


@pytest.mark.parametrize("args", [[], ["--max-samples", "2"]])
def test_bytes_do_not_depend_on_the_number_of_processes(args, written, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.speech.spoken_visual_data._BATCH", 2)
    assert speak(written, tmp_path / "one/spoken", *args) == 0
    assert speak(written, tmp_path / "two/spoken", "--processes", "2", *args) == 0
    assert file_checksums(tmp_path / "one/spoken") == file_checksums(tmp_path / "two/spoken")


def test_a_number_of_samples_is_made_of_each_task_and_split(tmp_path):
    data = tmp_path / "written"
    for split in ("train", "val"):
        prepare_corpus(tmp_path / "corpus", data, split=split)
    assert speak(data, tmp_path / "spoken", "--max-samples", "1") == 0
    counts = {"train": 1, "val": 1}
    assert read_manifest(tmp_path / "spoken")["counts"] == {"s2i": counts, "svqa": counts}


def test_every_split_stays_its_own(tmp_path):
    data = tmp_path / "written"
    for split in ("train", "val"):
        prepare_corpus(tmp_path / "corpus", data, split=split, pairs=PAIRS[:2])
    assert speak(data, tmp_path / "spoken") == 0
    counts = {"train": 2, "val": 2}
    assert read_manifest(tmp_path / "spoken")["counts"] == {"s2i": counts, "svqa": counts}
    assert len(list((tmp_path / "spoken/media").glob("image-val-*.tar"))) == 1


def test_a_folder_of_corpora_takes_the_spoken_samples_of_its_own(written):
    before = file_checksums(written / "media")
    pictures = {name: sum for name, sum in before.items() if name.startswith("image")}
    assert speak(written, written) == 0
    after = file_checksums(written / "media")
    assert pictures.items() <= after.items()
    assert {name for name in after if name.startswith("image")} == set(pictures)
    manifest = read_manifest(written)
    assert manifest["counts"]["vqa"] == {"train": len(PAIRS)}
    assert manifest["counts"]["svqa"] == {"train": 4}
    assert len(manifest["shards"]) == len(list(written.rglob("*.tar")))
    assert speak(written, written) == 2  # it holds them already


def test_a_second_source_is_added_behind_the_first(written, tmp_path):
    pairs = [("What is behind it?", "A door.")]
    other = prepare_corpus(tmp_path / "other", tmp_path / "more", pairs=pairs)
    assert speak(written, tmp_path / "spoken") == 0
    assert speak(other, tmp_path / "spoken") == 0
    manifest = read_manifest(tmp_path / "spoken")
    assert [entry["data"] for entry in manifest["spoken"]] == [str(written), str(other)]
    assert manifest["counts"]["svqa"] == {"train": 5}
    assert (tmp_path / "spoken/tasks/svqa-train-000001.tar").is_file()


def test_a_run_that_stops_leaves_nothing(written, tmp_path, monkeypatch):
    def stop(pool, batches, lines_of):
        for batch in batches:
            yield batch, pool._speaker(lines_of(batch))
            raise KeyboardInterrupt

    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(speaker_pool.SpeakerPool, "speak_batches", stop)
    with pytest.raises(KeyboardInterrupt):
        speak(written, tmp_path / "spoken")
    assert {path.name for path in tmp_path.iterdir()} - before == {"cache"}


def test_what_a_killed_run_left_is_replaced(written, tmp_path):
    left = tmp_path / "spoken.spoken.partial/media"
    left.mkdir(parents=True)
    for name in ("image-train-000000.tar", "train.keys.sqlite", "train.pictures.sqlite"):
        (left / name).write_text("half")
    (tmp_path / "spoken").mkdir()
    assert speak(written, tmp_path / "spoken") == 0
    assert speak(written, tmp_path / "again") == 0
    assert not left.exists()
    for name in ("media", "tasks"):
        assert file_checksums(tmp_path / "spoken" / name) == file_checksums(
            tmp_path / "again" / name
        )


def test_it_trains_one_step(workplace, tmp_path):
    from lightning_omni.cli import main as omni

    out = tmp_path / "spoken"
    assert speak(workplace / "data/smoke", out) == 0
    args = ["fit", "--config", str(Path(__file__).parents[3] / "recipes/debug/stage3.yaml")]
    args += ["--data.data", str(out), "--data.tasks", '{"svqa": 1, "s2i": 1}']
    args += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    args += ["--trainer.callbacks", "[]", "--run_defaults", "[]"]
    args += ["--trainer.limit_val_batches", "0"]
    assert omni(args) == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--synthesizer", "tone.Absent"], "no class 'tone.Absent'"),
        (["--synthesizer", "nothing"], "no class 'nothing'"),
        (["--synthesizer", "tone.Mute"], "'tone.Mute' is no synthesizer"),
        (["--synthesizer", "gone.yaml"], "cannot read the YAML file 'gone.yaml'"),
        (["--synthesizer", "{folder}/list.yaml"], "has no class_path"),
        (["--synthesizer", "{folder}/words.yaml"], "init_args of"),
        (["--synthesizer", "{folder}/other.yaml"], "cannot be built"),
        (["--synthesizer", "{folder}/silent.yaml"], "is no synthesizer"),
        (["--synthesizer", "{folder}/deaf.yaml"], "no sample of"),
        (["--processes", "0"], "processes is 0"),
        (["--max-samples", "0"], "are 1 or more"),
        (["--out", "{folder}/full"], "is not empty and no data folder"),
    ],
)
def test_mistakes_are_named(args, expected, written, tmp_path, capsys):
    files = {
        "list.yaml": "[1]",
        "words.yaml": f"class_path: {TONE}\ninit_args: [1]\n",
        "other.yaml": f"class_path: {TONE}\ninit_args: {{pitch: 3}}\n",
        "silent.yaml": f"class_path: {TONE}\ninit_args: {{voices: 0}}\n",
        "deaf.yaml": f"class_path: {TONE}\ninit_args: {{refused: ''}}\n",
        "full/thesis.tex": "years of work",
    }
    (tmp_path / "full").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    args = [arg.format(folder=tmp_path) for arg in args]
    assert speak(written, tmp_path / "spoken", *args) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "spoken").exists()
    assert (tmp_path / "full/thesis.tex").is_file()


def test_a_folder_without_written_questions_is_refused(tmp_path, capsys):
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "one.wav", 0.1 * np.ones(16000), 16000)
    (folder / "one.txt").write_text("hello")
    out = ["--out", str(tmp_path / "d")]
    assert main(["--corpus", "audio_transcripts", "--source", str(folder), *out]) == 0
    assert speak(tmp_path / "d", tmp_path / "spoken") == 2
    assert "no shards of vqa or t2i" in capsys.readouterr().err
    assert main(["--speak", str(tmp_path / "d")]) == 2


def test_a_synthesizer_that_fails_often_stops_the_build(tmp_path, capsys):
    pairs = [(f"Is {i} unspeakable?" if i % 2 else f"Is {i} red?", "no") for i in range(130)]
    data = prepare_corpus(tmp_path / "corpus", tmp_path / "written", pairs=pairs)
    assert speak(data, tmp_path / "spoken") == 2
    assert "the synthesizer failed on 65 of 130 samples" in capsys.readouterr().err


def test_a_process_that_ends_is_reported(written, tmp_path, capsys):
    args = ["--synthesizer", "tone.Dying", "--processes", "2"]
    assert speak(written, tmp_path / "spoken", *args) == 2
    assert "fewer --processes" in capsys.readouterr().err


def test_the_arguments_of_a_yaml_file_reach_the_class(written, tmp_path):
    (tmp_path / "one.yaml").write_text(f"class_path: {TONE}\ninit_args: {{voices: 1}}\n")
    assert speak(written, tmp_path / "spoken", "--synthesizer", str(tmp_path / "one.yaml")) == 0
    (entry,) = read_manifest(tmp_path / "spoken")["spoken"]
    assert entry["question_voices"] == 1
    counts = entry["samples"]["svqa"]["train"]
    assert (counts["kept"], counts["repeated"]) == (3, 1)  # by one voice they are the same
    assert entry["synthesizer"] == {"class_path": TONE, "init_args": {"voices": 1}}
    assert "tone" in sys.modules
