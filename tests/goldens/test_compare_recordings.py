"""The command that compares two recordings names every case that differs."""

import json
import sys

import compare
import pytest

NO_MEDIA = {"image": None, "speech": None}
IDS = {
    "tqa": {"parts": {"text": {"ids": [1, 2]}}, "margin": {"min": 0.5}, **NO_MEDIA},
    "asr": {"parts": {"text": {"ids": [4]}}, "margin": {"min": None}, **NO_MEDIA},
}
LOSSES = {"stage1": {"batches": [{"loss": 2.0}, {"loss": 1.5}]}}


def checkout(folder, ids=IDS, losses=LOSSES):
    """Write a folder whose recorder writes what is given."""
    recorder = folder / "tests/goldens/record.py"
    recorder.parent.mkdir(parents=True)
    recorder.write_text(
        "import sys\n"
        f"known = {json.dumps({'ids': json.dumps(ids), 'losses': json.dumps(losses)})}\n"
        "what, _, path = sys.argv[1:]\n"
        "open(path, 'w').write('{\"%s\": %s}' % (what, known[what]))\n"
    )
    return folder


def compared(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, args)])
    return compare.main(), capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--tolerant"]])
def test_equal_recordings_exit_with_0(options, tmp_path, monkeypatch, capsys):
    a, b = checkout(tmp_path / "a"), checkout(tmp_path / "b")
    code, out = compared(monkeypatch, capsys, a, b, *options)
    assert code == 0
    assert "ids: 2 cases, 0 differ" in out
    assert "losses: 1 cases, 0 differ" in out


def test_a_value_that_differs_is_named(tmp_path, monkeypatch, capsys):
    ids = {**IDS, "tqa": {**IDS["tqa"], "parts": {"text": {"ids": [1, 9]}}}}
    losses = {"stage1": {"batches": [{"loss": 2.0}, {"loss": 1.6}]}}
    a, b = checkout(tmp_path / "a"), checkout(tmp_path / "b", ids, losses)
    code, out = compared(monkeypatch, capsys, a, b)
    assert code == 1
    assert "tqa differs\n    /parts/text/ids[1]: 2 -> 9\n" in out
    assert "stage1 differs\n    /batches[1]/loss: 1.5 -> 1.6\n" in out
    assert "asr differs" not in out


def test_a_case_that_is_missing_differs(tmp_path, monkeypatch, capsys):
    a, b = checkout(tmp_path / "a"), checkout(tmp_path / "b", {"tqa": IDS["tqa"]}, {})
    code, out = compared(monkeypatch, capsys, a, b)
    assert code == 1
    assert "asr differs" in out
    assert out.count("(missing)") == 2
    assert compared(monkeypatch, capsys, b, a)[0] == 0  # what only the second has is not compared


def test_a_small_difference_is_within_the_tolerance(tmp_path, monkeypatch, capsys):
    losses = {"stage1": {"batches": [{"loss": 2.0001}, {"loss": 1.5}]}}
    a, b = checkout(tmp_path / "a"), checkout(tmp_path / "b", losses=losses)
    assert compared(monkeypatch, capsys, a, b)[0] == 1
    assert compared(monkeypatch, capsys, a, b, "--tolerant")[0] == 0


def test_a_folder_without_a_recorder_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"has no record\.py"):
        compared(monkeypatch, capsys, tmp_path, tmp_path)
