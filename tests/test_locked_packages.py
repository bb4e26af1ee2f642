"""The packages that CI installs by their hashes are those that the project asks for."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def locked():
    lines = (ROOT / ".ci/requirements.txt").read_text("utf-8").splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


def test_each_dependency_is_locked_within_its_limits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = (ROOT / ".ci/extras").read_text("utf-8").strip().split(",")
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    versions = locked()
    for wanted in map(Requirement, asked):
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        assert name in versions, f"{name} is not locked; run .ci/lock"
        assert wanted.specifier.contains(versions[name]), f"{wanted} has {versions[name]}"


def lock_lines(report):
    spec = importlib.util.spec_from_file_location("write_lock", ROOT / ".ci/write_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lock_lines(report)


def test_a_lock_has_names_versions_and_hashes_and_no_addresses():
    def entry(name, info):
        return {"metadata": {"name": name, "version": "1"}, "download_info": info}

    archive = {"url": "file:///x", "archive_info": {"hashes": {"sha256": "ab"}}}
    itself = entry("own", {"url": "file:///y", "dir_info": {"editable": True}})
    report = {"install": [entry("Zoo_x.y", archive), entry("a", archive), itself]}
    assert lock_lines(report) == ["a==1 --hash=sha256:ab", "zoo-x-y==1 --hash=sha256:ab"]
    with pytest.raises(SystemExit, match="has no SHA-256"):
        lock_lines({"install": [entry("a", {"url": "file:///x", "archive_info": {}})]})
