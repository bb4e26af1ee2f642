"""A small data folder whose media are not encoded yet, and what encodes it."""

import io
import json

import numpy as np
import soundfile
import torch
from PIL import Image
from tar_files import write_tar

from lightning_omni.data.encoding.encoding_job import EncodingJob
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.jobs.worker import Worker
from lightning_omni.pretrained import FOLDER

CPU = torch.device("cpu")
TOKENIZERS = {f"{name}_tokenizer": FOLDER / f"{name}_tokenizer" for name in ("image", "speech")}


def picture(rng):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def recording(rng):
    buffer = io.BytesIO()
    wave = rng.uniform(-0.5, 0.5, 4000 + int(rng.integers(0, 500)))
    soundfile.write(buffer, wave, 16_000, format="FLAC")
    return buffer.getvalue()


def dialogue(task, asked, answered):
    turns = [{"role": "user", "parts": asked}, {"role": "assistant", "parts": answered}]
    return json.dumps({"task": task, "turns": turns, "meta": {}}).encode()


def make_data(folder, *, shards=2, per_shard=3):
    """Shards of pictures and recordings, and of captions, drawings and transcripts of them."""
    rng = np.random.default_rng(956)
    for name in ("media", "tasks"):
        (folder / name).mkdir(parents=True)
    for n in range(shards):
        names = [f"{n}-{i}" for i in range(per_shard)]
        for kind, make, suffix in (("image", picture, "png"), ("speech", recording, "flac")):
            files = {f"{kind}-{name}.{suffix}": make(rng) for name in names}
            write_tar(folder / "media" / f"{kind}-train-{n:06d}.tar", files.items())
        for task, modality in (("caption", "image"), ("asr", "speech"), ("t2i", "image")):
            samples = {}
            for i, name in enumerate(names):
                text, medium = {"text": f"it is {name}"}, {modality: f"{modality}-{name}"}
                pair = ([text], [medium]) if task == "t2i" else ([medium, text], [text])
                if task != "t2i" or i == 0:  # one picture of each shard is drawn too
                    samples[f"{task}-{name}.json"] = dialogue(task, *pair)
            write_tar(folder / "tasks" / f"{task}-train-{n:06d}.tar", samples.items())
    (folder / "manifest.json").write_text('{"preset": "none"}\n')
    return folder


def settings_of(folder, **changes):
    return EncodingSettings(folder, **TOKENIZERS, **changes)


def contents(codes):
    """The bytes of a folder of codes by name."""
    files = sorted(p for p in codes.rglob("*") if p.is_file())
    return {str(path.relative_to(codes)): path.read_bytes() for path in files}


def worker_of(settings, **part):
    return Worker(EncodingJob(settings, CPU), is_shown=False, **part)
