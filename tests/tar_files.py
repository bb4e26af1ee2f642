"""Tars of given members."""

import io
import json
import tarfile

from lightning_omni.types import Part, Sample, Turn


def write_tar(path, files, **options):
    """Write `(name, content)` pairs into a tar and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def write_question_shard(path, keys):
    """Write a shard of written questions without answers."""
    question = (Turn("user", (Part("text", text="hi"),)),)
    samples = [Sample(key, "tqa", question) for key in keys]
    return write_tar(path, [(f"{s.key}.json", json.dumps(s.to_json()).encode()) for s in samples])
