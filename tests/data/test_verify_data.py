"""A data folder is what its manifests list, when it is opened and as `verify-data` reads it."""

import json
import shutil
from pathlib import Path

import pytest
from encoding_data import CPU, make_data, settings_of

from data_prep.data_folder import write_manifest
from lightning_omni import cli
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.image_data import ImageData
from lightning_omni.data.manifest import add_checksum, manifest_sha256, read_manifest
from lightning_omni.data.shard_checks import check_prepared_shards, check_shards
from lightning_omni.data.shard_index import index_path, write_index
from lightning_omni.data.shards import find_medium_file, read_samples, read_shard
from lightning_omni.errors import OmniError
from lightning_omni.files import file_sha256


def list_shards_in_manifest(data):
    """Write indices and the manifest of a data folder as prep-data does."""
    shards = []
    for path in sorted(data.glob("*/*.tar")):
        kind, split, _ = path.stem.split("-")
        shards.append(
            {
                "path": f"{path.parent.name}/{path.name}",
                "kind": kind,
                "split": split,
                "samples": len(write_index(path)),
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
    write_manifest(data, {"preset": "none", "shards": shards})


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("encoded") / "data")
    list_shards_in_manifest(data)
    ensure_codes(settings_of(data), CPU)
    return data


@pytest.fixture
def data(encoded, tmp_path):
    return shutil.copytree(encoded, tmp_path / "data")


def codes_of(data):
    (manifest,) = data.glob("codes/*/manifest.json")
    return manifest.parent


def flip_bit(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def exchange(one, other):
    """Exchange two files, and their indices."""
    for a, b in ((one, other), (index_path(one), index_path(other))):
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)


def test_whole_data_are_as_listed(data, capsys):
    check_prepared_shards(data)
    check_shards(codes_of(data))
    assert cli.main(["verify-data", str(data)]) == 0
    assert cli.main(["verify-data", "--data", str(codes_of(data))]) == 0
    listed = read_manifest(codes_of(data))
    assert listed["bytes"] == {p.name: p.stat().st_size for p in codes_of(data).glob("*.tar")}


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-512]),
    "renamed": lambda path: path.rename(path.with_name(path.name.replace("0.tar", "9.tar"))),
    "surplus": lambda path: shutil.copy(path, path.with_name(path.name.replace("0.tar", "9.tar"))),
    "exchanged": lambda path: exchange(path, path.with_name(path.name.replace("0.tar", "1.tar"))),
}
PLACES = {
    "media": lambda data: data / "media/speech-train-000000.tar",
    "tasks": lambda data: data / "tasks/caption-train-000000.tar",
    "codes": lambda data: codes_of(data) / "caption-train-000000.tar",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_another_shard_than_is_listed_is_named_when_the_folder_is_opened(data, place, damage):
    path = PLACES[place](data)
    DAMAGE[damage](path)
    with pytest.raises(OmniError, match=path.stem[:-1]):
        check_shards(path.parent)
    assert cli.main(["verify-data", str(data)]) == 2


@pytest.mark.parametrize("place", PLACES)
def test_altered_bytes_are_noticed_when_they_are_read_and_by_verify_data(data, place, caplog):
    path = PLACES[place](data)
    flip_bit(path, 700)
    check_shards(path.parent)
    with pytest.raises(OmniError, match="another checksum"):
        list(read_shard(path))
    assert cli.main(["verify-data", str(data)]) == 2
    assert f"'{path}' has another SHA-256 than is listed" in caplog.text


def test_altered_bytes_of_a_shard_without_index_are_noticed_too(data):
    path = PLACES["tasks"](data)
    index_path(path).unlink()
    flip_bit(path, 700)
    with pytest.raises(OmniError, match="SHA-256 differs"):
        read_samples(path.parent, "caption", "train")


def test_verify_data_lists_everything_that_is_damaged(data, caplog, capsys):
    flip_bit(PLACES["media"](data), 700)
    PLACES["tasks"](data).unlink()
    flip_bit(codes_of(data) / "features.safetensors", -1)
    flip_bit(index_path(data / "media/image-train-000001.tar"), 130)
    assert cli.main(["verify-data", str(data)]) == 2
    for name in ("speech-train-000000.tar", "caption-train-000000.tar' is missing", "features"):
        assert name in caplog.text
    assert "image-train-000001.tar.idx' is not the index of its shard" in caplog.text
    assert "4 files of" in capsys.readouterr().err


@pytest.mark.parametrize("of", ["data", "codes"])
def test_a_changed_manifest_that_still_parses_is_refused_where_it_is_opened(data, of, capsys):
    folder = data if of == "data" else codes_of(data)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    digits = [at for at, byte in enumerate(whole) if chr(byte) in "0123456789"]
    for at in [*digits[::37], *digits[-3:]]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])  # another digit
        with pytest.raises(OmniError, match=r"differs from the checksum in it|is not JSON"):
            read_manifest(folder)
    with pytest.raises(OmniError, match="differs from the checksum"):
        check_shards(folder / "media" if of == "data" else folder)
    assert cli.main(["verify-data", str(folder)]) == 2
    assert "differs from the checksum" in capsys.readouterr().err


def test_a_manifest_without_checksum_is_read_with_one_warning_and_gets_one(data, caplog):
    path = data / "manifest.json"
    text = path.read_text()
    plain = "".join(x for x in text.splitlines(True) if '"checksum"' not in x)
    digest = manifest_sha256(data)
    path.write_text(plain)  # as earlier versions wrote it
    assert digest == manifest_sha256(data) == file_sha256(path)
    found = [read_manifest(data), read_manifest(data)]
    assert caplog.text.count("has no checksum of its own") == 1
    write_manifest(data, found[0])
    assert path.read_text() == text
    assert read_manifest(data) == found[1]


LAYOUTS = {
    "one line": {},
    "wide": {"indent": 8, "sort_keys": True},
    "dense": {"separators": (",", ":"), "ensure_ascii": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of", ["data", "codes"])
def test_a_manifest_that_is_laid_out_anew_is_the_same(data, of, layout):
    folder = data if of == "data" else codes_of(data)
    path, found, digest = folder / "manifest.json", read_manifest(folder), manifest_sha256(folder)
    path.write_text(json.dumps(json.loads(path.read_text()), **LAYOUTS[layout]))
    assert (read_manifest(folder), manifest_sha256(folder)) == (found, digest)
    assert settings_of(data).folder_name == codes_of(data).name
    path.write_text(path.read_text().replace('"samples"', '"sample"', 1))
    for read in (read_manifest, manifest_sha256):
        with pytest.raises(OmniError, match="delete its entry 'checksum'"):
            read(folder)
    changed = json.loads(path.read_text())
    del changed["checksum"]
    path.write_text(json.dumps(changed, **LAYOUTS[layout]))
    assert read_manifest(folder) == changed  # as the sentence says


@pytest.mark.parametrize("facts", [{}, {"é": "\ud800", "n": [1.5e-7, {3: (1, 2), 20: None}]}])
def test_any_entries_have_a_checksum(facts, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(add_checksum(add_checksum(facts))))
    assert read_manifest(tmp_path) == json.loads(json.dumps(facts))


def test_a_manifest_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(data, monkeypatch):
    path, read = data / "manifest.json", Path.read_bytes
    old, reads = read_manifest(data), []

    def replace_behind(self):
        content = read(self)
        reads.append(self)
        write_manifest(data, {**old, "preset": f"another {len(reads)}"})
        return content

    monkeypatch.setattr(Path, "read_bytes", replace_behind)
    assert read_manifest(data) == old
    assert read_manifest(data)["preset"] == "another 1"
    assert reads == [path, path]


def test_a_list_of_an_earlier_version_is_said(data, caplog):
    (data / "manifest.json").write_text(json.dumps({"preset": "none"}))
    check_shards(data / "media")
    assert "lists no shards" in caplog.text
    assert cli.main(["verify-data", str(data)]) == 2


@pytest.mark.parametrize(
    "entry",
    [
        {"samples": "3"},
        {"samples": -1},
        {"samples": 3, "bytes": 1.5},
        {"samples": 3, "sha256": "0"},
        {"samples": 3, "path": "../../evil.tar"},
        {"samples": 3, "path": 7},
    ],
)
def test_a_damaged_list_is_named(data, entry):
    listed = [{"path": "media/image-train-000000.tar", **entry}]
    (data / "manifest.json").write_text(json.dumps({"shards": listed}))
    with pytest.raises(OmniError, match=r"manifest\.json"):
        check_shards(data / "media")


def test_training_on_pictures_is_refused_where_a_shard_is_missing(data):
    (data / "media/image-train-000001.tar").unlink()
    images = ImageData(str(data), image_size=8, batch_size=1, seed=0)
    with pytest.raises(OmniError, match="lacks the shard 'image-train-000001"):
        images.setup("fit")


def test_a_medium_is_found_among_the_files_of_its_key(data):
    for key, files in read_shard(PLACES["media"](data)):
        assert find_medium_file(files, key, data)
