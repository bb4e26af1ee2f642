"""Laws of the built-in corpus, on the preset that needs pip packages only."""

import pytest

from data_prep.__main__ import main
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shards import read_samples
from lightning_omni.tasks import TASKS_BY_NAME


@pytest.mark.parametrize("preset", ["smoke", pytest.param("demo", marks=pytest.mark.slow)])
def test_a_preset_built_twice_gives_the_same_bytes_and_keeps_its_splits_apart(tmp_path, preset):
    for name in ("one", "two"):
        args = ["--preset", preset, "--out", str(tmp_path / name)]
        assert main([*args, "--cache", str(tmp_path / f"cache-{name}")]) == 0
    first, second = (read_manifest(tmp_path / name)["shards"] for name in ("one", "two"))
    assert first == second
    folder = tmp_path / "one" / "tasks"
    for task in (name for name in TASKS_BY_NAME if name != "chat"):
        assert read_samples(folder, task, "train")
        assert read_samples(folder, task, "val")
        assert read_samples(folder, task, "test_iid")

    def combinations(split):
        samples = read_samples(folder, "t2i", split)
        return {tuple(key) for s in samples for key in s.meta["keys"]}

    captions = [
        {s.meta["caption"] for s in read_samples(folder, "t2i", split)}
        for split in ("train", "test_comp")
    ]
    assert not captions[0] & captions[1]
    assert combinations("test_comp") - combinations("train")
