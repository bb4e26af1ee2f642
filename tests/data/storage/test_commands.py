"""What reads data folders and corpora reads them at URLs."""

import io
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from servers import DROP, serving
from tar_files import write_tar

from data_prep.prepare_corpus import prepare_corpus
from lightning_omni.data.image_data import ImageData
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.errors import OmniError
from lightning_omni.studies.inspect.command import inspect_data


def picture(number):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 40, 90)).save(out, "PNG")
    return out.getvalue()


def sound(number):
    out = io.BytesIO()
    wave = np.sin(np.arange(16000) * (0.01 + number / 100)).astype(np.float32)
    soundfile.write(out, wave, 16000, format="FLAC")
    return out.getvalue()


def write_corpus(folder, extension, make, first, count):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{first:05d}.tar"
    files = []
    for n in range(first, first + count):
        files += [(f"{n:05d}.{extension}", make(n)), (f"{n:05d}.txt", f"number {n}".encode())]
    return write_tar(path, files)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "png", picture, 0, 12)
    write_corpus(folder, "png", picture, 12, 12)
    write_corpus(folder / "speech", "flac", sound, 0, 12)
    return folder


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "out"
    for split in ("train", "val"):
        prepare_corpus("img2dataset", [corpus / "00000.tar"], out, split=split, facts={})
        prepare_corpus("speech_tars", [corpus / "speech"], out, split=split, facts={})
    return out


def test_a_corpus_at_urls_in_braces_gives_the_same_shards(corpus, tmp_path):
    sources = [corpus / "00000.tar", corpus / "00012.tar"]
    local = prepare_corpus("img2dataset", sources, tmp_path / "a", split="train", facts={})
    with serving(corpus, faults={DROP: 0.1}) as server:
        source = f"{server.url}/{{00000,00012}}.tar?signature=secret"
        found = prepare_corpus("img2dataset", [source], tmp_path / "b", split="train", facts={})
    digests = [[s["sha256"] for s in made["shards"]] for made in (local, found)]
    assert sorted(digests[0]) == sorted(digests[1])
    assert "secret" not in (tmp_path / "b/manifest.json").read_text()


def test_a_missing_url_is_noticed_before_the_work(corpus, tmp_path):
    with serving(corpus) as server:
        source = f"{server.url}/{{00000,99999}}.tar"
        with pytest.raises(OmniError, match=r"99999\.tar'; check --source"):
            prepare_corpus("img2dataset", [source], tmp_path / "b", split="train", facts={})


def test_the_image_tokenizer_sees_the_same_pictures(data):
    def first(folder):
        module = ImageData(str(folder), image_size=16, batch_size=4, seed=3, lanes=2)
        module.setup("fit")
        found = [one.batch for one in islice(module.train_dataloader(), 4)]
        return torch.stack([*found, *islice(module.val_dataloader(), 1)])

    with serving(data) as server:
        assert torch.equal(first(server.url), first(data))


def test_the_speech_tokenizer_sees_the_same_crops(data):
    def first(folder):
        module = SpeechData(
            str(folder), 16000, crop_s=0.2, batch_size=2, val_batches=2, seed=3, lanes=2
        )
        module.setup("fit")
        return torch.stack([one.batch for one in islice(module.train_dataloader(), 4)])

    with serving(data) as server:
        assert torch.equal(first(server.url), first(data))


def test_inspect_shows_the_same_table(data, tmp_path, caplog):
    caplog.set_level("INFO")
    inspect_data(str(data), out=tmp_path / "local.html", samples=2)
    with serving(data) as server:
        inspect_data(server.url, out=tmp_path / "url.html", samples=2)
        local, url = ((tmp_path / f"{n}.html").read_text() for n in ("local", "url"))
        assert url.replace(server.url, str(data)) == local
    assert "read from URLs:" in caplog.text
    assert read_manifest(data)["shards"]
