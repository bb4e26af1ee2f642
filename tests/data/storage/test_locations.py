"""Paths and URLs: told apart, joined, shown without credentials."""

import pickle
import sys
from pathlib import Path

import pytest

from lightning_omni.data.storage.locations import parse_location, parse_recorded_location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

SECRET = "https://user:pass@host:8/a/b.tar?sig=secret#x"


def test_sources_are_told_apart():
    assert parse_location("data/mini") == Path("data/mini")
    assert parse_location("file:///data/mini") == Path("/data/mini")
    assert parse_location("s3://bucket/a") == Url("s3://bucket/a")


@pytest.mark.parametrize("root", ["s3://bucket/data", "https://host/data", "gs://b/d/"])
def test_urls_are_joined_like_paths(root):
    url = parse_location(root) / "tasks" / "x-train-000000.tar"
    assert url.address == f"{root.rstrip('/')}/tasks/x-train-000000.tar"
    assert (url.name, url.suffix, url.stem) == ("x-train-000000.tar", ".tar", "x-train-000000")
    assert url.parent.name == "tasks"
    assert url.with_suffix(".json").name == "x-train-000000.json"
    assert pickle.loads(pickle.dumps(url)) == url


def test_credentials_are_used_but_not_shown():
    url = parse_location(SECRET)
    assert str(url) == "https://host:8/a/b.tar"
    assert "pass" not in repr(url) + f"{url}"
    assert url.with_name("c.tar").address == SECRET.replace("b.tar", "c.tar")
    assert str(parse_location("s3://key:secret@bucket/x?y=z")) == "s3://bucket/x"


def test_a_recipe_with_credentials_is_refused():
    with pytest.raises(OmniError, match=r"data\.data 'https://host:8/a/b\.tar' comes with"):
        parse_recorded_location(SECRET, "data.data")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(OmniError, match=r"'httpd://' is no scheme.*did you mean 'http"):
        parse_location("httpd://host/x").is_file()


@pytest.mark.parametrize(("scheme", "module"), [("gs", "gcsfs.core"), ("s3", "s3fs")])
def test_a_missing_package_names_the_extra(scheme, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # what `import` then raises is an ImportError
    with pytest.raises(OmniError, match=rf"{scheme}:// needs .*lightning-omni\[remote\]"):
        parse_location(f"{scheme}://bucket/x").is_file()


def test_any_file_system_of_fsspec_is_read():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/a.txt", b"one\ntwo\n")
    memory.pipe("/folder/b/c.txt", b"three")
    url = parse_location("memory://folder")
    assert [one.name for one in url.glob("*.txt")] == ["a.txt"]
    assert sorted(one.address for one in url.iterdir()) == [
        "memory://folder/a.txt",
        "memory://folder/b/",
    ]
    with (url / "a.txt").open() as lines:
        assert list(lines) == ["one\n", "two\n"]
    assert (url / "b/c.txt").read_text() == "three"


def test_a_password_with_a_slash_is_not_shown():
    url = parse_location("s3://key:sec/ret@bucket/x@1.tar")
    assert str(url) == "s3://bucket/x@1.tar"
    with pytest.raises(OmniError, match=r"'s3://bucket/x@1\.tar' comes with"):
        parse_recorded_location(url.address, "data.data")
    assert str(parse_location("hf://datasets/u/n@main/x.tar")) == "hf://datasets/u/n@main/x.tar"
