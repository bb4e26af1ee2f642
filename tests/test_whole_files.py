"""Files and folders that are replaced when they are complete, and the encoding of texts."""

import errno
import json
from pathlib import Path

import pytest
import torch
from text_encodings import calls_without_encoding

import lightning_omni
from lightning_omni.errors import OmniError
from lightning_omni.generation.model_folder import write_model_folder
from lightning_omni.pretrained import BUNDLED, resolve_pretrained
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.whole_files import (
    replace_folder_when_complete,
    replace_when_complete,
    write_files,
    write_text,
)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_that_belong_together_change_together_or_not_at_all(tmp_path, monkeypatch):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    write_files({first: b"1", second: b"2"})
    real = Path.write_bytes

    def write_half(path, content):
        if path.name.endswith("b.txt"):
            real(path, content[:1])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OmniError, match=r"cannot write '.*b\.txt' \(No space left"):
        write_files({first: b"33", second: b"44"})
    assert contents(tmp_path) == {"a.txt": b"1", "b.txt": b"2"}


def test_any_error_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "grün \ud83d\n")
    assert (tmp_path / "a").read_bytes() == "grün \\ud83d\n".encode()

    def fail():
        with replace_when_complete(tmp_path / "a", tmp_path / "b") as (first, second):
            first.write_text("x")
            second.write_text("y")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(contents(tmp_path)) == ["a"]


def test_a_folder_is_replaced_whole_or_stays(tmp_path):
    folder = tmp_path / "export"
    for content in ("old", "new"):
        with replace_folder_when_complete(folder) as partial:
            (partial / "x").write_text(content)
    assert contents(tmp_path) == {"x": b"new"}

    def fail(error):
        with replace_folder_when_complete(folder) as partial:
            (partial / "x").write_text("half")
            raise error

    with pytest.raises(OmniError, match=r"cannot write '.*export' \(full\)"):
        fail(OSError(errno.ENOSPC, "full"))
    assert contents(tmp_path) == {"x": b"new"}
    folder.rename(tmp_path / ".export.old")  # killed between two renamings
    with pytest.raises(KeyError):
        fail(KeyError())
    assert (folder / "x").read_text() == "new"


def test_an_export_that_fails_leaves_the_one_before_and_one_that_succeeds_what_was_added(
    tmp_path, monkeypatch
):
    bundled = resolve_pretrained(BUNDLED)
    model = lightning_omni.Omni.bundled()
    given = {
        "voices": [],
        "image_tokenizer": bundled / "image_tokenizer",
        "speech_tokenizer": bundled / "speech_tokenizer",
        "encoder_fingerprint": None,
    }

    def export(card):
        write_model_folder(
            tmp_path / "e", model.backbone, model.backbone.state_dict(), model.template, {},
            card=card, **given,
        )  # fmt: skip

    export("one")
    (tmp_path / "e/presets.json").write_text("{}")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export("two")
    assert contents(tmp_path) == before
    export("two")
    assert (tmp_path / "e/README.md").read_text() == "two"
    assert json.loads((tmp_path / "e/presets.json").read_text()) == {}


def test_weights_that_cannot_be_written_are_told_in_a_sentence(tmp_path, monkeypatch):
    tokenizer = ImageTokenizer.from_pretrained(resolve_pretrained(BUNDLED, "image_tokenizer"))
    tokenizer.save_pretrained(tmp_path / "t")
    before = contents(tmp_path)

    def fail(weights, path):
        path.write_bytes(b"half")
        from safetensors import SafetensorError

        raise SafetensorError("No space left on device")

    monkeypatch.setattr("lightning_omni.pretrained.save_file", fail)
    with torch.no_grad(), pytest.raises(OmniError, match=r"cannot write '.*(safetensors|json)'"):
        tokenizer.save_pretrained(tmp_path / "t")
    assert contents(tmp_path) == before


def test_texts_are_utf_8_whatever_the_locale():
    root = Path(lightning_omni.__file__).parents[1]
    passed = ("devices.py", "cpu.py", "claims.py", "peak_memory.py")  # /proc
    found = [
        f"{path.name}:{line} {call}"
        for folder in ("lightning_omni", "data_prep")
        for path in sorted((root / folder).rglob("*.py"))
        if path.name not in passed
        for line, call in calls_without_encoding(path.read_text("utf-8"))
    ]
    assert not found


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "weights").write_text("old")
    rename = Path.rename

    def fail(path, target):
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(OmniError, match="what was there is unchanged"),
        replace_folder_when_complete(folder) as partial,
    ):
        (partial / "weights").write_text("new")
    assert (folder / "weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
