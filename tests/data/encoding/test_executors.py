"""Every executor writes the same bytes."""

import importlib.util
import multiprocessing
import os
import sys
from contextlib import contextmanager
from functools import partial

import pytest
from encoding_data import contents, make_data, settings_of
from several_processes import run_processes

from lightning_omni.data.encoding.command import encode, load_encoding_job
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.options import EncodeOptions
from lightning_omni.data.manifest import read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.jobs.executors import local, slurm_array, torchrun


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


def loads(data):
    return partial(load_encoding_job, partial(settings_of, data), "cpu")


@pytest.fixture
def wanted(tmp_path, data):
    """What one process writes, which does nothing else."""
    made = ensure_codes(settings_of(make_data(tmp_path / "other")))
    assert made.name == settings_of(data).local_codes_folder.name
    return contents(made)


def test_one_and_two_processes_write_the_same(data, wanted, tmp_path):
    assert "encoding" not in {name.partition("/")[0] for name in wanted}
    local.run_with_processes(loads(data), 1)
    assert contents(settings_of(data).local_codes_folder) == wanted
    again = make_data(tmp_path / "again")
    local.run_with_processes(loads(again), 2)
    assert contents(settings_of(again).local_codes_folder) == wanted


def test_an_interrupt_between_two_starts_ends_the_first_process(data, monkeypatch):
    starts = iter([None, KeyboardInterrupt])

    @contextmanager
    def interrupted():
        if (error := next(starts)) is not None:
            raise error
        yield

    monkeypatch.setattr(local, "children_ignore_interrupts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.run_with_processes(loads(data), 2)
    assert not multiprocessing.active_children()


def test_ranks_of_torchrun_meet_in_the_folder(data, wanted, tmp_path):
    run_processes(lambda rank: torchrun.run_rank(loads(data)), 2, tmp_path)
    assert contents(settings_of(data).local_codes_folder) == wanted


def test_elements_of_an_array_finish_the_folder_in_any_order(data, wanted):
    parts = [slurm_array.run_array_element(loads(data), part, 3) for part in (2, 0, 1)]
    assert parts == [False, False, True]
    assert contents(settings_of(data).local_codes_folder) == wanted
    assert slurm_array.run_array_element(loads(data), 0, 3)


def test_an_element_takes_its_part_from_slurm(data, monkeypatch):
    for name, value in (("ID", 6), ("MIN", 5), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert not slurm_array.run_array_element(loads(data), None, None)
    done = {path.stem for path in settings_of(data).local_codes_folder.glob("encoding/finished/*")}
    assert done == {"media.image.image-train-000001", "media.speech.speech-train-000001"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_ray_write_the_same(data, wanted, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # they load `settings_of`
    encode(partial(settings_of, data), EncodeOptions("ray", 2, "cpu"))
    assert contents(settings_of(data).local_codes_folder) == wanted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (EncodeOptions("slurm-array", part=3, parts=3), "part is 3 of 3"),
        (EncodeOptions("slurm-array", part=-1, parts=3), "part is -1 of 3"),
        (EncodeOptions("slurm-array", part=1), "needs --part and --parts"),
        (EncodeOptions("torchrun"), "needs RANK and WORLD_SIZE"),
        (EncodeOptions("local", part=1, parts=2), "belong to --executor slurm-array, not to local"),
        (EncodeOptions("torchrun", processes=2), "--processes does not belong"),
        (EncodeOptions(device="gpu"), "device is 'gpu', wanted"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(data, options, sentence, monkeypatch):
    for name in [name for name in os.environ if name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    with pytest.raises(OmniError, match=sentence):
        encode(lambda: settings_of(data), options)
    assert not list(data.glob("codes/*/manifest.json"))


def test_less_than_one_process_is_refused():
    with pytest.raises(OmniError, match="processes is 0, wanted at least 1"):
        EncodeOptions(processes=0)


def test_a_process_that_fails_says_why(data):
    (data / "media" / "image-train-000001.tar").unlink()
    with pytest.raises(OmniError, match="refers to image 'image-1-0', not in the media shards"):
        local.run_with_processes(loads(data), 2)


def test_the_manifest_says_what_computed(data):
    manifest = read_manifest(ensure_codes(settings_of(data)))
    assert manifest["device"]
    assert manifest["computation"]["image"]["precision"] == "float32"
    assert manifest["samples"]["asr-train-000000.tar"] == 3
    assert set(manifest["sha256"]) == {path.name for path in (data / "tasks").glob("*.tar")}
