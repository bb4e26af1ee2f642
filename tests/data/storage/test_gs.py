"""An object store over Google's protocol: an emulator on loopback."""

from importlib import import_module
from importlib.util import find_spec

import pytest
from folders import batches, numbers, write_folder
from gs_server import gs_server, upload

from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.skipif(
        find_spec("gcsfs") is None or find_spec("gcp_storage_emulator") is None,
        reason="gcsfs or gcp-storage-emulator is not installed",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), shards=4, samples=32)


@pytest.fixture(scope="module", autouse=True)
def address(folder):
    with gs_server("data") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        upload(folder, "data", address)
        yield address


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_local_folder(folder, workers, caplog):
    import_module("gcsfs")  # as other packages may have done before
    url = parse_location("gs://data")
    assert url.is_dir()  # with workers: a file system that must not be used after the fork
    assert numbers(batches(url, count=32, workers=workers)) == numbers(batches(folder, count=32))
    told = [one.getMessage() for one in caplog.records if one.name.startswith("gcsfs")]
    assert not told


def test_files_and_folders_are_found(folder):
    url = parse_location("gs://data")
    assert sorted(one.name for one in url.glob("*.tar")) == sorted(
        path.name for path in folder.glob("*.tar")
    )
    assert not (url / "absent").exists()
    assert (url / "manifest.json").read_range(0, 10) == (folder / "manifest.json").read_bytes()[:10]


def test_a_missing_file_and_a_missing_bucket_are_sentences():
    with pytest.raises(OmniError, match="no file 'gs://data/absent'"):
        parse_location("gs://data/absent").read_range(0, 1)
    with pytest.raises(OmniError, match=r"no manifest\.json in 'gs://nowhere'"):
        read_manifest(parse_location("gs://nowhere"))
