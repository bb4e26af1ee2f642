"""The shards of a folder are those of its manifest."""

import json

import pytest
from tar_files import write_question_shard

from lightning_omni.data.shards import list_shards
from lightning_omni.errors import OmniError

SIZES = (3, 5, 1, 4)


@pytest.fixture(params=["counted", "uncounted"])
def folder(request, tmp_path):
    names = [f"tqa-train-{i:06d}.tar" for i in range(len(SIZES))]
    for i, (name, size) in enumerate(zip(names, SIZES, strict=True)):
        write_question_shard(tmp_path / name, [f"k{i}-{j}" for j in range(size)])
    if request.param == "counted":
        counts = dict(zip(names, SIZES, strict=True))
        (tmp_path / "manifest.json").write_text(json.dumps({"samples": counts}))
    return tmp_path


def test_shards_are_listed_with_their_numbers_of_samples(folder):
    shards = list_shards(folder, "tqa", "train")
    assert [shard.samples for shard in shards] == list(SIZES)
    assert [shard.path.name for shard in shards] == sorted(p.name for p in folder.glob("*.tar"))


@pytest.mark.parametrize("change", ["lacks the shard", "holds the shard"])
def test_other_shards_than_the_manifest_lists_are_named(folder, change):
    if not (folder / "manifest.json").exists():
        pytest.skip("nothing is listed")
    if change.startswith("lacks"):
        (folder / "tqa-train-000001.tar").unlink()
    else:
        write_question_shard(folder / "tqa-train-000001-copy.tar", ["x"])
        (folder / "tqa-train-000001-copy.tar").rename(folder / "tqa-train-000009.tar")
    with pytest.raises(OmniError, match=change):
        list_shards(folder, "tqa", "train")


def test_no_shards_of_a_kind_are_refused(folder):
    with pytest.raises(OmniError, match="no shards of 'vqa', split 'train'"):
        list_shards(folder, "vqa", "train")


def test_media_shards_are_listed_by_the_manifest_of_the_folder_above(tmp_path):
    (tmp_path / "media").mkdir()
    path = tmp_path / "media" / "image-val-000000.tar"
    write_question_shard(path, ["a", "b"])
    entry = {"path": "media/image-val-000000.tar", "kind": "image", "samples": 7}
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [entry]}))
    assert [s.samples for s in list_shards(tmp_path / "media", "image", "val")] == [7]
