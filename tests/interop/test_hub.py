"""A checkpoint that a user names on a hub is downloaded first, and only then."""

import inspect

import pytest
from small_models import import_small_dream

from lightning_omni.cli import main
from lightning_omni.interop import hub


class Shelf:
    """A hub whose cache holds links to one folder's files, as the real client's does."""

    def __init__(self, folder, cache, fails=None):
        self.folder, self.cache, self.fails, self.asked = folder, cache, fails, []

    def snapshot_download(self, repo_id, *, allow_patterns):
        if self.fails is not None:
            raise self.fails
        self.asked.append((repo_id, allow_patterns))
        self.cache.mkdir()
        for path in self.folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                (self.cache / path.name).symlink_to(path)
        return str(self.cache)


def import_from(given, out):
    return main(["import", "--from", "dream", "--input", str(given), "--output", str(out)])


def test_a_repository_is_imported_as_its_folder_is(tmp_path, monkeypatch):
    import_small_dream(tmp_path, 60)
    published = tmp_path / "published"
    (published / "modeling.py").write_text("raise SystemExit")
    shelf = Shelf(published, tmp_path / "cache")
    monkeypatch.setattr("lightning_omni.interop.command.open_hub", lambda _: shelf)
    assert import_from("hub:me/dream", tmp_path / "out") == 0
    ((repo, patterns),) = shelf.asked
    assert repo == "me/dream"
    assert not (tmp_path / "cache" / "modeling.py").exists()
    assert "*.bin" not in patterns
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "imported" / name).read_bytes()


def test_a_folder_asks_no_hub(tmp_path, monkeypatch):
    import_small_dream(tmp_path, 60)
    monkeypatch.setattr("lightning_omni.interop.command.open_hub", pytest.fail)
    assert import_from(tmp_path / "published", tmp_path / "out") == 0


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("gone"), KeyError("x")])
def test_a_hub_that_fails_is_one_sentence(tmp_path, monkeypatch, capsys, error):
    shelf = Shelf(tmp_path, tmp_path / "cache", error)
    monkeypatch.setattr("lightning_omni.interop.command.open_hub", lambda _: shelf)
    assert import_from("hub:me/dream", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: cannot download 'me/dream'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("repo", ["", "small", "me/", "a/b/c", "me/sm all"])
def test_what_names_no_repository_is_refused(tmp_path, capsys, repo):
    assert import_from(f"hub:{repo}", tmp_path / "out") == 2
    assert "wanted owner/name of a repository" in capsys.readouterr().err


def test_the_package_s_client_has_the_call():
    pytest.importorskip("huggingface_hub")
    wanted = set(inspect.signature(Shelf.snapshot_download).parameters) - {"self"}
    call = hub.open_hub("here").snapshot_download
    assert wanted <= set(inspect.signature(call).parameters)
