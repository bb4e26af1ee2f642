"""Full and read-only disks and errors of input and output, in every phase.

Each call makes an old result, lets the disk fail, and does the verb again with other options. Right
is exit code 2 with one sentence that names a path on the disk, the old result byte for byte as it
was, and nothing new beside it but unfinished work whose name says so; or, where the disk lasted,
the result that a sound disk gets.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from fault import Fault, Outcome
from full_disk import FAULTY, FULL, READ_ONLY, failing, free, small_disk
from PIL import Image

from lightning_omni.cli import main

RECIPE = Path(__file__).parents[2] / "recipes/debug/own_data.yaml"
_UNFINISHED = (".partial", ".lock", ".filler", "encoding")  # the last is the work of `encode`
_PAGE = 4096


class Phase(NamedTuple):
    """A verb on a disk.

    Attributes:
        name: What is done.
        make_old: Makes the old result.
        act: Arguments that make the new result; none of them change with the disk.
        result: Part of the disk that is the result.
    """

    name: str
    make_old: object
    act: object
    result: str


def quiet_main(args):
    """Exit code and standard error of a command."""
    error = io.StringIO()
    handler = logging.StreamHandler(error)
    root = logging.getLogger()
    root.addHandler(handler)
    before = os.environ.pop("LIGHTNING_OMNI_TRACEBACK", None)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            return main([str(arg) for arg in args]), error.getvalue()
    finally:
        root.removeHandler(handler)
        if before is not None:
            os.environ["LIGHTNING_OMNI_TRACEBACK"] = before


def must(args):
    """Run a command that has to succeed."""
    code, error = quiet_main(args)
    assert code == 0, error


@cache
def sources():
    """Folders of pictures and recordings, and a list of questions, made once."""
    folder = Path(tempfile.mkdtemp(prefix="fault-sources-"))
    rng = np.random.default_rng(956)
    for name in ("first", "second"):
        (folder / name).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
            (folder / name / f"{i}.txt").write_text(f"picture {i} of {name}")
    (folder / "sound").mkdir()
    for i in range(10):
        soundfile.write(folder / f"sound/{i}.wav", rng.normal(0, 0.1, 8000 + i), 16_000)
        (folder / f"sound/{i}.txt").write_text(f"recording {i}")
    turns = ({"role": "user", "content": "what"}, {"role": "assistant", "content": "that"})
    rows = [{"messages": [turns[0] | {"content": f"what is {i}"}, turns[1]]} for i in range(20)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@cache
def data():
    """A data folder with pictures, sound and test questions, encoded."""
    folder = Path(tempfile.mkdtemp(prefix="fault-data-")) / "data"
    convert("image_folder", sources() / "first", folder)
    must(convert_args("messages", sources() / "questions.jsonl", folder, "test_iid"))
    must(encode_args(folder))
    return folder


def convert_args(corpus, source, out, split="train"):
    """Arguments that convert a corpus in this process."""
    usual = ["--split", split, "--processes", 1, "--out", out]
    return ["prep-data", "--corpus", corpus, "--source", source, *usual]


def convert(corpus, source, out, split="train"):
    must(convert_args(corpus, source, out, split))


def encode_args(folder):
    return ["encode", "--config", RECIPE, "--data.data", folder, "--processes", 1]


def generate_args(place, task, seed):
    usual = ["--model", "bundled", "--num_steps", 2, "--seed", seed]
    return ["generate", "--task", task, "--text", "a cat", "--out", place / "answer", *usual]


def fit_args(place, steps, *more):
    root = ["--data.data", data(), "--trainer.default_root_dir", place / "run"]
    rows = ["--data.rows", 1, "--data.row_length", 256]
    return ["fit", "--config", RECIPE, *root, *rows, "--trainer.max_steps", steps, *more]


def evaluate_args(place, seed):
    what = ["--data", data(), "--model", "bundled", "--tasks", "[tqa]", "--splits", "[test_iid]"]
    limits = ["--limit", 3, "--speech_limit", 3, "--seed", seed, "--sampling.num_steps", 2]
    return ["evaluate", *what, *limits, "--out", place / "eval"]


@cache
def run_folder():
    """A finished run, for reports of it."""
    folder = Path(tempfile.mkdtemp(prefix="fault-run-"))
    must(fit_args(folder, 2))
    return folder / "run"


ONLY_EXPORT = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
PHASES = (
    Phase(
        "generate: a picture",
        lambda place: must(generate_args(place, "t2i", 1)),
        lambda place: generate_args(place, "t2i", 2),
        ".",
    ),
    Phase(
        "generate: speech",
        lambda place: must(generate_args(place, "tts", 1)),
        lambda place: generate_args(place, "tts", 2),
        ".",
    ),
    Phase(
        "prep-data: a new folder",
        lambda place: (place / "mine.txt").write_text("x"),
        lambda place: convert_args("image_folder", sources() / "first", place / "data"),
        ".",
    ),
    Phase(
        "prep-data: a second corpus",
        lambda place: convert("image_folder", sources() / "first", place / "data"),
        lambda place: convert_args("image_folder", sources() / "second", place / "data", "val"),
        "data",
    ),
    Phase(
        "prep-data: recordings",
        lambda place: convert("image_folder", sources() / "first", place / "data"),
        lambda place: convert_args("audio_transcripts", sources() / "sound", place / "data"),
        "data",
    ),
    Phase(
        "encode",
        lambda place: shutil.copytree(
            data(), place / "data", ignore=shutil.ignore_patterns("codes")
        ),
        lambda place: [
            "encode",
            "--config",
            RECIPE,
            "--data.data",
            place / "data",
            "--processes",
            1,
        ],
        "data",
    ),
    Phase(
        "fit: checkpoints and TensorBoard",
        lambda place: must(fit_args(place, 2)),
        lambda place: fit_args(place, 4, "--data.seed", 1),
        "run/export",
    ),
    Phase(
        "fit: the export",
        lambda place: must(fit_args(place, 2)),
        lambda place: fit_args(place, 2, "--data.seed", 1, *ONLY_EXPORT),
        "run/export",
    ),
    Phase(
        "export",
        lambda place: (place / "mine.txt").write_text("x"),
        lambda place: [
            *("export", "--model", "bundled", "--format", "safetensors"),
            *("--dtype", "float16", "--output", place / "small"),
        ],
        ".",
    ),
    Phase(
        "evaluate",
        lambda place: must(evaluate_args(place, 1)),
        lambda place: evaluate_args(place, 2),
        "eval",
    ),
    Phase(
        "report",
        lambda place: (place / "r.html").write_text("old"),
        lambda place: ["report", "--run", run_folder(), "--out", place / "r.html"],
        ".",
    ),
)


def snapshot(folder):
    """Content of every file by name, without unfinished work."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.endswith(_UNFINISHED) for part in path.relative_to(folder).parts)
    }


@cache
def on_a_sound_disk(phase):
    """The result by name, and the bytes that are written for it."""
    with tempfile.TemporaryDirectory(prefix="fault-sound-") as folder:
        place = Path(folder)
        phase.make_old(place)
        before = snapshot(place)
        must(phase.act(place))
        after = snapshot(place)
        written = [c for name, c in after.items() if before.get(name) != c]
        return snapshot(place / phase.result), sum(-(-len(c) // _PAGE) * _PAGE for c in written)


def judge(phase, place, code, error, before):
    """What a verb on a failing disk led to."""
    now, whole = snapshot(place / phase.result), on_a_sound_disk(phase)[0]
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    detail = " | ".join(lines)[-300:]
    if code == 0:
        is_whole = now.keys() == whole.keys()
        return Outcome(is_whole, "the disk lasted, the new result is whole", f"{sorted(now)[:9]}")
    lost = [name for name, content in before.items() if now.get(name) != content]
    # `encode` goes on from whole shards, of which nothing is read before a manifest lists them
    new = [n for n in now if n not in before and not (n in whole and whole[n] == now[n])]
    if code != 2 or len(lines) != 1:
        return Outcome(False, f"exit {code}", detail or error[-300:])
    if "Traceback" in error or "LIGHTNING_OMNI_TRACEBACK" in error:
        return Outcome(False, "an internal message", detail)
    if lost:
        return Outcome(False, "the old result changed", f"{lost[:3]} {detail}")
    if new:
        return Outcome(False, "a part of the new result is left", f"{new[:3]} {detail}")
    if str(place) not in detail:
        return Outcome(False, "a sentence without the path", detail)
    return Outcome(True, "exit 2 with the path, the old result is whole")


def fault_of(phase, kind):
    """Return what lets the disk fail in a phase."""

    def run(number, folder):
        whole, room = on_a_sound_disk(phase)
        with small_disk(folder / "disk") as place:
            phase.make_old(place)
            before = snapshot(place / phase.result)
            arguments = phase.act(place)
            with failing(place, kind, number, room):
                code, error = quiet_main(arguments)
            yield judge(phase, place, code, error, before)
            if code:
                free(place)
                again, error = quiet_main(arguments)
                is_whole = again == 0 and snapshot(place / phase.result).keys() == whole.keys()
                what = "the same command succeeds afterwards"
                yield Outcome(is_whole, what, f"exit {again}: {error[-200:]}")

    return run


_FAST = ("generate: a picture", "prep-data: a second corpus", "report")
FAULTS = tuple(
    Fault(
        f"{phase.name}; disk {kind}",
        20 if kind != READ_ONLY else 2,
        fault_of(phase, kind),
        fast_calls=int(phase.name in _FAST),
    )
    for phase in PHASES
    for kind in (FULL, READ_ONLY, FAULTY)
)
