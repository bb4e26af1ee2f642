"""A checkpoint as a folder: whole or refused, replaced at once, awaited when written meanwhile."""

import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from several_processes import run_processes

from lightning_omni.callbacks.export_checkpoint import (
    is_checkpoint,
    read_checkpoint_weights,
    write_recipe_of_checkpoint,
)
from lightning_omni.cli_trainer import check_checkpoint
from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE
from lightning_omni.modules.checkpoint_folder import (
    PLAIN_FILE,
    FolderWriter,
    is_checkpoint_folder,
    read_checkpoint_folder,
)
from lightning_omni.modules.checksummed_writer import describe_damaged_files

WEIGHT = torch.arange(6.0).view(2, 3)
CHECKPOINT = {
    "state_dict": {"a": WEIGHT},
    "callbacks": {"EMA": {"averaged": {"a": WEIGHT + 1}, "updates": 3}},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1}]}],
    "global_step": 7,
    "pair": (1, [torch.ones(1)]),
}


def written(rank, folder, *, is_asynchronous):
    writer = FolderWriter(is_asynchronous=is_asynchronous)
    old, new = folder / "old.ckpt", folder / "last.ckpt"
    writer.write({**CHECKPOINT, "global_step": 1}, old)
    writer.write({**CHECKPOINT, "global_step": 6}, new)
    writer.write(CHECKPOINT, new)
    writer.remove(old)
    writer.wait()
    return sorted(path.name for path in folder.glob("*.ckpt*")) if rank == 0 else None


@pytest.fixture(params=[False, True])
def folder(request, tmp_path):
    work = partial(written, folder=tmp_path, is_asynchronous=request.param)
    assert run_processes(work, 1, tmp_path, joins=True) == [["last.ckpt"]]
    assert not list(tmp_path.glob(".*"))
    return tmp_path / "last.ckpt"


def test_a_folder_gives_back_what_was_written(folder):
    read = read_checkpoint_folder(folder, has_processes=False)
    torch.testing.assert_close(read, CHECKPOINT, rtol=0, atol=0)
    assert is_checkpoint(folder)
    check_checkpoint(str(folder), is_needed=True)
    weights, step = read_checkpoint_weights(folder)
    assert step == 7
    assert torch.equal(weights["a"], WEIGHT + 1)


def test_what_is_not_whole_is_refused(folder):
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(OmniError, match="is damaged"):
        read_checkpoint_folder(folder, has_processes=False)
    (folder / PLAIN_FILE).unlink()
    assert not is_checkpoint_folder(folder)
    with pytest.raises(OmniError, match="not a complete checkpoint"):
        read_checkpoint_folder(folder, has_processes=False)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", PLAIN_FILE, SUMS_FILE])
def test_a_damaged_file_is_refused_by_name_before_anything_is_read(folder, name, damage):
    if damage is Path.unlink and name in (".metadata", PLAIN_FILE, SUMS_FILE):
        pytest.skip("no checkpoint at all, or one of an earlier version")
    damage(folder / name)
    with pytest.raises(OmniError, match="is damaged") as caught:
        read_checkpoint_folder(folder, has_processes=False)
    assert name in str(caught.value)


def test_the_list_of_checksums_is_that_of_sha256sum(folder):
    comment, *lines = (folder / SUMS_FILE).read_text().splitlines()
    assert comment.startswith("# run begun -, step 7, saved 20")
    assert {line.split("  ")[1] for line in lines} == {
        path.name for path in folder.iterdir() if path.name != SUMS_FILE
    }
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=folder, check=True)


def test_the_line_about_run_and_step_has_a_checksum_of_its_own(folder):
    path = folder / SUMS_FILE
    whole = path.read_bytes()
    for at in range(whole.index(b"\n")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert describe_damaged_files(folder), path.read_bytes()
    path.write_bytes(whole.replace(b"step 7", b"step 9"))
    with pytest.raises(OmniError, match="SHA256SUMS was changed where it says run and step"):
        read_checkpoint_folder(folder, has_processes=False)


def test_a_folder_of_an_earlier_version_has_no_list_and_is_read_with_a_warning(folder, caplog):
    (folder / SUMS_FILE).unlink()
    assert read_checkpoint_folder(folder, has_processes=False)["global_step"] == 7
    assert f"has no {SUMS_FILE}" in caplog.text


def refused(rank, folder):
    """What a process is told; each looks at some files only."""
    with pytest.raises(OmniError) as caught:
        read_checkpoint_folder(folder)
    return str(caught.value)


def test_all_processes_refuse_what_one_of_them_finds(folder, tmp_path):
    flip(folder / "__0_0.distcp")
    told = run_processes(partial(refused, folder=folder), 2, tmp_path, joins=True)
    assert told[0] == told[1]
    assert "__0_0.distcp differs from its checksum in" in told[0]


def test_a_checkpoint_without_its_run_or_of_noise_is_refused(tmp_path):
    with pytest.raises(OmniError, match=r"no config\.yaml of the run"):
        write_recipe_of_checkpoint(tmp_path / "a/b/x.ckpt", tmp_path / "recipe.yaml")
    (tmp_path / "x.ckpt").write_bytes(b"noise")
    with pytest.raises(OmniError, match="is damaged"):
        read_checkpoint_weights(tmp_path / "x.ckpt")
