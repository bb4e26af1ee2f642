"""Shards in a store that a manifest does not list are refused where the store can be listed."""

import logging
from typing import ClassVar

import fsspec
import pytest
from encoding_data import CPU, make_data, settings_of
from fsspec.implementations.memory import MemoryFileSystem

from data_prep.data_folder import write_manifest
from lightning_omni import cli
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.manifest import ListedShard
from lightning_omni.data.shard_checks import check_prepared_shards, check_shards, find_shard_names
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.shards import check_shard_names
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError
from lightning_omni.files import file_sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("encoded") / "data")
    shards = []
    for path in sorted(data.glob("*/*.tar")):
        kind, split, _ = path.stem.split("-")
        facts = {"path": f"{path.parent.name}/{path.name}", "kind": kind, "split": split}
        facts |= {"samples": len(write_index(path)), "bytes": path.stat().st_size}
        shards.append({**facts, "sha256": file_sha256(path)})
    write_manifest(data, {"preset": "none", "shards": shards})
    ensure_codes(settings_of(data), CPU)
    return data


@pytest.fixture
def url(folder):
    """The folder in an object store of this process."""
    store = fsspec.filesystem("memory")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.pipe_file(f"/store/{path.relative_to(folder).as_posix()}", path.read_bytes())
    yield parse_location("memory://store")
    store.rm("/store", recursive=True)


def codes_of(url):
    return next((url / "codes").iterdir())


def test_a_shard_that_is_not_listed_is_refused_in_data_and_codes(url):
    codes = codes_of(url)
    check_prepared_shards(url)
    check_shards(codes)
    store = fsspec.filesystem("memory")
    for of, name, copy in (
        (url / "media", "image-train-000000.tar", "image-train-000099.tar"),
        (url / "tasks", "caption-train-000000.tar", "caption-train-000099.tar"),
        (codes, "caption-train-000000.tar", "caption-train-000099.tar"),
    ):
        path = f"/{of.address.removeprefix('memory://').rstrip('/')}/"
        store.copy(path + name, path + copy)
        with pytest.raises(OmniError, match=rf"holds the shard '{copy}', which its manifest does"):
            check_shards(of)
        store.rm(path + copy)
        store.rm(path + name)
        with pytest.raises(OmniError, match=rf"lacks the shard '{name}'"):
            check_shards(of)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_verify_data_finds_the_codes_beside_data_in_a_store(url, is_damaged, caplog):
    caplog.set_level(logging.INFO)
    store, codes = fsspec.filesystem("memory"), codes_of(url)
    path = f"/{codes.address.removeprefix('memory://').rstrip('/')}/caption-train-000000.tar"
    raw = bytearray(store.cat_file(path))
    raw[700] ^= is_damaged
    store.pipe_file(path, bytes(raw))
    assert cli.main(["verify-data", url.address]) == (2 if is_damaged else 0)
    damage = "caption-train-000000.tar' has another SHA-256 than is listed"
    assert (damage if is_damaged else "are as listed") in caplog.text


class AccessDenied(Exception):
    response: ClassVar = {"Error": {"Code": "AccessDenied"}}


class ExpiredToken(Exception):
    response: ClassVar = {"Error": {"Code": "ExpiredToken"}}


def fail_to_list(monkeypatch, error, cause=None):
    """Let the store answer requests for listings, and those alone, with an error."""

    def refuse(self, path, **options):
        raise error from cause

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)


def test_who_may_not_list_a_store_is_warned_and_reads_what_is_listed(url, monkeypatch, caplog):
    fail_to_list(monkeypatch, PermissionError("no"), AccessDenied())
    check_prepared_shards(url)
    assert "cannot be listed" in caplog.text
    assert "may not be read (access denied)" in caplog.text
    assert not Url("https://host/data").can_be_listed


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (TimeoutError("late"), None, "after 10 attempts.*TimeoutError"),
        (PermissionError("no"), ExpiredToken(), "valid credentials .ExpiredToken"),
    ],
)
def test_a_listing_that_fails_turns_off_no_check(url, monkeypatch, caplog, error, cause, said):
    monkeypatch.setattr("lightning_omni.data.storage.retries.time.sleep", lambda _: None)
    fail_to_list(monkeypatch, error, cause)
    with pytest.raises(OmniError, match=said):
        check_prepared_shards(url)
    assert "cannot be listed" not in caplog.text


def test_a_folder_without_shards_is_none_in_a_store(url, caplog):
    empty = url.parent / "other" / "tasks"
    assert find_shard_names(empty, {}) == []
    assert "cannot be listed" not in caplog.text
    with pytest.raises(OmniError, match="lacks the shard 'a'"):
        check_shard_names(empty, {"a"}, set(find_shard_names(empty, {"a": ListedShard(1)})))
