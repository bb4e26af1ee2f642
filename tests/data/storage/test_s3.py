"""An object store over S3's protocol: moto's server on loopback."""

from dataclasses import replace

import pytest
from folders import batches, numbers, write_folder
from s3_server import KEYS, s3_server, upload

from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.shards import list_shards
from lightning_omni.data.storage import retries
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.url_reader import shared_url_reader
from lightning_omni.errors import OmniError

for package in ("s3fs", "moto", "flask_cors"):
    pytest.importorskip(package, reason=f"{package} is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), shards=4, samples=32)


@pytest.fixture(scope="module")
def endpoint(folder):
    with s3_server() as endpoint:
        upload(folder, "data", endpoint)
        yield endpoint


@pytest.fixture(autouse=True)
def keys(endpoint, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(retries, "POLICY", replace(retries.POLICY, connect_s=10.0, read_s=5.0))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_local_folder(folder, workers):
    url = parse_location("s3://data")
    if workers:
        assert url.is_dir()  # a file system of the parent, which must not be used after the fork
    assert numbers(batches(url, count=32, workers=workers)) == numbers(batches(folder, count=32))
    assert shared_url_reader().counts.num_faults == 0


def test_files_and_folders_are_found(folder):
    url = parse_location("s3://data")
    assert sorted(one.name for one in url.glob("*.tar")) == sorted(
        path.name for path in folder.glob("*.tar")
    )
    assert not url.is_file()
    assert not (url / "absent").exists()
    assert (url / "manifest.json").is_file()
    assert (url / "manifest.json").read_range(0, 10) == (folder / "manifest.json").read_bytes()[:10]


def test_a_missing_file_and_a_missing_bucket_are_sentences():
    with pytest.raises(OmniError, match="no file 's3://data/absent'"):
        parse_location("s3://data/absent").read_range(0, 1)
    with pytest.raises(OmniError, match=r"no manifest\.json in 's3://nowhere'"):
        read_manifest(parse_location("s3://nowhere"))
    with pytest.raises(OmniError, match="no shards of 'vqa'"):
        list_shards(parse_location("s3://data"), "vqa", "train")


def test_no_credentials_are_one_sentence(monkeypatch, tmp_path):
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(OmniError, match=r"s3://data/manifest\.json' may not be read"):
        parse_location("s3://data/manifest.json").read_range(0, 1)
