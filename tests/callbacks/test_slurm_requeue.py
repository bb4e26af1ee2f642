"""A job of Slurm is put into its queue again by `scontrol`, once."""

import logging

import pytest

from lightning_omni.callbacks.slurm_requeue import requeue_slurm_job


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Make a stub of scontrol, the only program there is; return what it was called with."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)

    def make(line="exit 0"):
        stub = tmp_path / "scontrol"
        stub.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n{line}\n')
        stub.chmod(0o755)
        return lambda: (tmp_path / "calls").read_text()

    return make


def test_outside_of_slurm_nothing_is_called(scontrol, tmp_path):
    scontrol()
    assert not requeue_slurm_job()
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "18"}, "18"),
        (
            {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "18", "SLURM_ARRAY_TASK_ID": "3"},
            "18_3",
        ),
    ],
)
def test_the_job_or_element_is_requeued(scontrol, monkeypatch, variables, job):
    calls = scontrol()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert requeue_slurm_job()
    assert calls() == f"requeue {job}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [("echo 'Requested operation not permitted' >&2; exit 1", "not permitted"), (None, "scontrol")],
)
def test_what_fails_is_told(scontrol, monkeypatch, caplog, line, said):
    if line is not None:
        scontrol(line)
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    with caplog.at_level(logging.WARNING):
        assert not requeue_slurm_job()
    assert "job 18 is not requeued" in caplog.text
    assert said in caplog.text
