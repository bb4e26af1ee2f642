"""A checkpoint file is whole or absent, and its damage is noticed."""

import errno
import os
import re
import shutil
import subprocess

import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.modules.checkpoint_file import (
    RUN,
    CheckpointFileIO,
    checksum_file,
    find_damage,
    load_checkpoint_file,
    read_saves,
    refuse_damaged_file,
    refuse_other_contents,
    write_checkpoint_file,
)


def checkpoint(step):
    weights = {"a": torch.arange(4000.0) + step}
    run = {RUN: {"begun": "then"}, "optimizer_states": []}
    return {"state_dict": weights, "global_step": step, **run}


@pytest.fixture
def last(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint_file(checkpoint(4), path)
    return path


def test_a_file_is_listed_for_sha256sum_with_its_run_and_step(last):
    subprocess.run(
        ["sha256sum", "--check", "--quiet", checksum_file(last).name], cwd=last.parent, check=True
    )
    (save,) = read_saves(last)
    assert (save.begun, save.step) == ("then", 4)
    assert find_damage(last) == ("", save)
    write_checkpoint_file(checkpoint(8), last)
    assert [(one.step, one.is_whole) for one in read_saves(last)] == [(8, True)]
    assert load_checkpoint_file(last)["global_step"] == 8
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
    write_checkpoint_file({"state_dict": {}}, last)
    assert not read_saves(last)[0].is_whole


@pytest.mark.parametrize("has_checksum", [True, False])
def test_any_damage_of_a_file_is_found(last, has_checksum):
    if not has_checksum:  # a file of an earlier version
        checksum_file(last).unlink()
        assert find_damage(last) == ("", None)
    data = last.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], b"", flipped(data, 2000)):
        last.write_bytes(damaged)
        with pytest.raises(OmniError, match=r"last\.ckpt' is damaged .*--ckpt_path last"):
            refuse_damaged_file(last)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_each_flipped_bit_beside_a_file_is_found(last):
    beside = checksum_file(last)
    whole = beside.read_bytes()
    for at in set(range(whole.index(b"  last.ckpt"))) - {whole.index(b"\n")}:
        beside.write_bytes(flipped(whole, at))
        assert find_damage(last)[0], beside.read_bytes()
    beside.write_bytes(whole.replace(b"step 4", b"step 9"))
    with pytest.raises(OmniError, match=r"last\.ckpt\.sha256 says of its run and step was changed"):
        refuse_damaged_file(last)
    beside.write_bytes(re.sub(rb", sum \w+", b"", whole))  # of an earlier version
    assert read_saves(last)[0].step == 4
    assert not find_damage(last)[0]


def test_a_changed_line_about_the_file_before_leaves_the_other_valid(last):
    digest = read_saves(last)[0].sha256
    lines = checksum_file(last).read_text()
    checksum_file(last).write_text(
        lines + lines.replace("step 4", "step 9").replace(digest, "0" * 64)
    )
    assert [(save.step, save.sha256) for save in read_saves(last)] == [(4, digest)]
    assert not find_damage(last)[0]


@pytest.mark.parametrize("fails_at", ["fsync", "replace", "write"])
def test_a_full_disk_is_named_with_the_file_and_leaves_the_one_before(last, monkeypatch, fails_at):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails_at == "write":
        monkeypatch.setattr("lightning_omni.modules.checkpoint_file._HashedFile.write", fail)
    else:
        monkeypatch.setattr(os, fails_at, fail)
    with pytest.raises(OmniError, match=r"last\.ckpt' \(No space left on device\); what was saved"):
        write_checkpoint_file(checkpoint(8), last)
    monkeypatch.undo()
    assert not find_damage(last)[0]
    assert load_checkpoint_file(last)["global_step"] == 4
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_file_takes_the_place_of_a_folder_and_of_a_file_of_an_earlier_version(last):
    checksum_file(last).unlink()
    write_checkpoint_file(checkpoint(5), last)
    last.unlink()
    last.mkdir()
    write_checkpoint_file(checkpoint(6), last)
    refuse_damaged_file(last)
    assert read_saves(last)[0].step == 6
    assert len(list(last.parent.iterdir())) == 2


def test_a_link_has_the_checksum_of_its_file(last):
    link = last.with_name("link.ckpt")
    link.symlink_to("last.ckpt")
    assert not find_damage(link)[0]
    last.write_bytes(b"noise")
    assert find_damage(link)[0]


def test_what_is_no_checkpoint_is_refused(last, tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(OmniError, match="holds no weights"):
        refuse_other_contents("list.ckpt", load_checkpoint_file(tmp_path / "list.ckpt"))
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.ckpt")  # as launchers hand them over
    assert list(CheckpointFileIO().load_checkpoint(tmp_path / "weights.ckpt")) == ["weight"]
    torch.save({"state_dict": {}, "object": shutil.copy}, tmp_path / "object.ckpt")
    with pytest.raises(OmniError, match="holds more than tensors and plain values"):
        CheckpointFileIO().load_checkpoint(tmp_path / "object.ckpt")
    with pytest.raises(OmniError, match=r"recipes/strategy/fsdp2\.yaml"):
        CheckpointFileIO().load_checkpoint(tmp_path)
    CheckpointFileIO().remove_checkpoint(last)
    assert not list(last.parent.iterdir())
