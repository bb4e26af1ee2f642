"""A dataset on a hub: `hf://` against a server with the hub's few answers."""

from importlib.util import find_spec

import pytest
from folders import batches, numbers, write_folder
from hub_server import hub_server

from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError

pytestmark = pytest.mark.skipif(
    find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)
DATA = "hf://datasets/me/digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), shards=4, samples=32)


@pytest.fixture(scope="module", autouse=True)
def address(folder):
    with hub_server(folder, "me/digits") as address, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield address


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_local_folder(folder, workers):
    url = parse_location(DATA)
    assert url.is_dir()  # with workers: a file system that must not be used after the fork
    assert numbers(batches(url, count=32, workers=workers)) == numbers(batches(folder, count=32))


def test_files_and_folders_are_found(folder):
    url = parse_location(DATA)
    assert sorted(one.name for one in url.glob("*.tar")) == sorted(
        path.name for path in folder.glob("*.tar")
    )
    assert not (url / "absent").exists()
    assert (url / "manifest.json").read_range(0, 10) == (folder / "manifest.json").read_bytes()[:10]


@pytest.mark.parametrize(("status", "said"), [(403, "may not be read"), (404, "no file")])
def test_an_answer_s_status_is_a_sentence(status, said, monkeypatch):
    file = parse_location(f"{DATA}/other.json")
    monkeypatch.setattr(
        "hub_server._Handler._answer_api", lambda self, _: self._send(status, b"", {})
    )
    with pytest.raises(OmniError, match=said):
        file.read_range(0, 1)


def test_a_missing_file_and_a_missing_dataset_are_sentences():
    with pytest.raises(OmniError, match=f"no file '{DATA}/absent'"):
        parse_location(f"{DATA}/absent").read_range(0, 1)
    with pytest.raises(OmniError, match=r"no manifest\.json in 'hf://datasets/me/nothing'"):
        read_manifest(parse_location("hf://datasets/me/nothing"))
