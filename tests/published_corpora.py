"""Small corpora and checkpoints of noise, in the published layouts that one GPU's day reads."""

import io
import json
from pathlib import Path

import encodec
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file
from tar_files import write_tar

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COLOURS = ("red", "blue", "green", "black", "white")


def wave(number, rate):
    """A second of a tone and noise, another for each number."""
    rng = np.random.default_rng(number)
    tone = np.sin(np.arange(rate) * (0.05 + 0.004 * number)) * 0.3
    return (tone + rng.normal(0, 0.02, rate)).astype(np.float32)


def picture(number, kind="JPEG"):
    """A picture of one colour with a spot."""
    image = Image.new("RGB", (48, 40), COLOURS[number % len(COLOURS)])
    image.putpixel((number % 48, number % 40), (9, number % 255, 99))
    raw = io.BytesIO()
    image.save(raw, kind)
    return raw.getvalue()


def write_librispeech(root, splits, per_split=3):
    """`SPLIT/SPEAKER/CHAPTER/ID.flac` and one file of transcripts per chapter."""
    for place, split in enumerate(splits):
        speaker = 100 + place
        folder = root / split / f"{speaker}" / "7"
        folder.mkdir(parents=True)
        lines = []
        for i in range(per_split):
            number = 10 * place + i
            soundfile.write(folder / f"{speaker}-7-{i:04d}.flac", wave(number, 16_000), 16_000)
            lines.append(f"{speaker}-7-{i:04d} NUMBER {WORDS[number % 10].upper()}")
        (folder / f"{speaker}-7.trans.txt").write_text("\n".join(lines) + "\n")


def write_libritts(root, splits, per_split=3):
    """`SPLIT/SPEAKER/CHAPTER/ID.wav` with two texts beside each."""
    for place, split in enumerate(splits):
        speaker = 200 + place
        folder = root / split / f"{speaker}" / "8"
        folder.mkdir(parents=True)
        for i in range(per_split):
            number = 50 + 10 * place + i
            name = f"{speaker}_8_000000_{i:06d}"
            soundfile.write(folder / f"{name}.wav", wave(number, 24_000), 24_000)
            text = f"It is number {WORDS[number % 10]}."
            (folder / f"{name}.normalized.txt").write_text(text)
            (folder / f"{name}.original.txt").write_text(text)


def write_captions(root, tars, per_tar=1):
    """Tars of img2dataset, with the two files that it leaves beside each."""
    for tar in range(tars):
        files = []
        for i in range(per_tar):
            number = tar * per_tar + i
            key = f"{tar:05d}{i:04d}"
            caption = f"a {COLOURS[number % 5]} wall, number {number}"
            facts = {"caption": caption, "key": key, "status": "success", "url": f"x/{key}.jpg"}
            files += [
                (f"{key}.jpg", picture(number)),
                (f"{key}.txt", caption.encode()),
                (f"{key}.json", json.dumps(facts).encode()),
            ]
        write_tar(root / f"{tar:05d}.tar", files)
        (root / f"{tar:05d}_stats.json").write_text(json.dumps({"count": per_tar}))


def write_parquet(path, rows):
    """Write rows as Parquet."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def write_questions(root, files, per_file=3):
    """LLaVA-OneVision: a folder per subset, pictures inside Parquet."""
    for file in range(files):
        rows = []
        for i in range(per_file):
            number = 500 + file * per_file + i
            talk = [
                {"from": "human", "value": f"<image>\nWhat colour is wall {number}?"},
                {"from": "gpt", "value": COLOURS[number % 5]},
            ]
            image = {"bytes": picture(number, "PNG"), "path": None}
            rows.append(
                {"id": f"{number}", "image": image, "conversations": talk, "data_source": "w"}
            )
        name = f"subset {file % 2} (x,y)/train-{file:05d}-of-{files:05d}.parquet"
        write_parquet(root / name, rows)


def write_dialogues(root, files, per_file=2):
    """Tulu: written dialogues in Parquet."""
    for file in range(files):
        rows = []
        for i in range(per_file):
            number = file * per_file + i
            talk = [
                {"role": "user", "content": f"What comes after {WORDS[number]}?"},
                {
                    "role": "assistant",
                    "content": f"After {WORDS[number]} comes {WORDS[number + 1]}.",
                },
            ]
            rows.append({"id": f"{number}", "messages": talk, "source": "w"})
        write_parquet(root / f"data/train-{file:05d}-of-{files:05d}.parquet", rows)


def write_corpora(root: Path) -> Path:
    """Write all corpora of the page below a folder."""
    write_librispeech(root / "LibriSpeech", ("train-clean-100", "dev-clean", "test-clean"))
    splits = ("train-clean-100", "train-clean-360", "dev-clean", "test-clean")
    write_libritts(root / "LibriTTS", splits)
    write_captions(root / "captions", 42)
    write_questions(root / "llava-onevision", 4)
    write_dialogues(root / "tulu-3-sft-mixture", 4)
    return root


def write_recordings(root: Path) -> Path:
    """Recordings beside their transcripts, in a folder per speaker and split."""
    for place, split in enumerate(("train", "held_out", "test")):
        folder = root / split / "anna"
        folder.mkdir(parents=True)
        for i in range(3):
            number = 90 + 3 * place + i
            soundfile.write(folder / f"{number}.wav", wave(number, 16_000), 16_000)
            (folder / f"{number}.txt").write_text(f"my own number {number}")
    return root


def write_encodec(folder):
    """EnCodec for 24 kHz with random weights and codebooks, as safetensors."""
    torch.manual_seed(0)
    model = encodec.EncodecModel.encodec_model_24khz(pretrained=False)
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder
