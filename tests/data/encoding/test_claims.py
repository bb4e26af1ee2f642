"""Processes that encode one folder divide its shards, and finish those of one that is gone."""

import os
import signal
import time
from random import Random

import pytest
from encoding_data import CPU, contents, make_data, settings_of, worker_of
from several_processes import run_processes

from lightning_omni.data.encoding import ensure_codes as ensure_codes_module
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.errors import OmniError
from lightning_omni.jobs import claims as claims_module
from lightning_omni.jobs.claims import Claims


@pytest.fixture
def claims(tmp_path):
    made = []

    def make(**given):
        made.append(Claims(tmp_path / "claims", **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_name_has_one_owner_at_a_time(claims):
    one, two = claims(), claims()
    assert one.acquire("a")
    assert not two.acquire("a")
    assert two.acquire("b")
    two.release("a")  # not its own
    assert not two.acquire("a")
    one.release("a")
    assert two.acquire("a")
    assert one.has_other_workers()
    two.close()
    assert one.acquire("a")
    assert not one.has_other_workers()


def test_the_claim_of_a_process_that_is_gone_is_taken_over(claims, tmp_path):
    child = os.fork()
    if child == 0:
        Claims(tmp_path / "claims").acquire("a")
        os.kill(os.getpid(), signal.SIGKILL)
    other = claims()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # gone, but not yet reaped
    assert other.acquire("a")
    os.waitpid(child, 0)


def test_the_claim_of_a_number_that_was_given_again_is_taken_over(claims, tmp_path):
    one = claims()
    words = one.owner.split()
    (tmp_path / "claims/a.claim").write_text(" ".join([*words[:2], "1", "word"]))
    assert one.acquire("a")


def test_a_folder_that_vanishes_while_a_process_arrives_is_made_again(
    claims, tmp_path, monkeypatch
):
    left, original = [tmp_path / "claims"], os.open

    def opened(path, flags):
        if left:
            left.pop().rmdir()  # as a process that has finished the job does
        return original(path, flags)

    monkeypatch.setattr(claims_module.os, "open", opened)
    late = claims()
    assert len(late.held) == 1
    assert not late.has_other_workers()


def test_a_claim_of_another_host_is_taken_over_when_it_falls_silent(claims, tmp_path):
    path = tmp_path / "claims/a.claim"
    one = claims(stale_s=0.2)
    for text in ("elsewhere 1 2 word", ""):
        path.write_text(text)
        assert not one.acquire("a")
        time.sleep(0.3)
        os.utime(path)  # its owner lives
        assert not one.acquire("a")
        time.sleep(0.3)
        assert one.acquire("a")
        one.release("a")


def test_a_claim_is_renewed(claims, tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "HEARTBEAT_S", 0.01)
    one = claims()
    one.acquire("a")
    path = tmp_path / "claims/a.claim"
    os.utime(path, (1, 1))
    time.sleep(0.2)
    assert path.stat().st_mtime > 1


def test_a_claim_that_was_taken_over_in_between_is_put_back(claims, tmp_path, monkeypatch):
    one, path = claims(), tmp_path / "claims/a.claim"
    path.write_text(f"{one.host} 999999999 1 word")

    def taken_over(owner):
        path.write_text("elsewhere 1 2 living")
        return True

    monkeypatch.setattr(one, "_is_owner_gone", taken_over)
    one._break_if_stale(path)
    assert path.read_text() == "elsewhere 1 2 living"
    assert [p.name for p in (tmp_path / "claims").glob("*.stale")] == []


def test_processes_that_start_together_write_what_one_writes(tmp_path):
    wanted = contents(ensure_codes(settings_of(make_data(tmp_path / "other"))))
    for turn in range(3):
        data = make_data(tmp_path / f"data{turn}")
        (tmp_path / f"{turn}").mkdir()
        found = run_processes(
            lambda rank, data=data: str(ensure_codes(settings_of(data), CPU)),
            2,
            tmp_path / f"{turn}",
        )
        assert found == [str(settings_of(data).local_codes_folder)] * 2
        assert contents(settings_of(data).local_codes_folder) == wanted


def encode_until(data, seconds):
    """Let a process encode for so long, then kill it; whether it had to be killed."""
    child = os.fork()
    if child == 0:
        ensure_codes(settings_of(data), CPU)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


def test_a_folder_whose_process_was_killed_is_finished_with_the_same_bytes(tmp_path):
    rng = Random(956)
    other, data = (make_data(tmp_path / name, shards=4) for name in ("other", "data"))
    started = time.monotonic()
    wanted = contents(ensure_codes(settings_of(other)))
    seconds = time.monotonic() - started
    killed = [encode_until(data, rng.uniform(0.3, 0.8) * seconds) for _ in range(4)]
    assert any(killed)
    assert contents(ensure_codes(settings_of(data), CPU)) == wanted


def test_a_killed_process_costs_the_shard_it_was_at(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    worker = worker_of(settings_of(data))
    steps = [step for phase in worker.job.plan.phases() for step in phase]
    run, done = worker.job.run_step, []

    def stopped(step):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(step.name)
        return run(step)

    monkeypatch.setattr(worker.job, "run_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        worker.run_job()
    worker.close()
    second = worker_of(settings_of(data))
    run = second.job.run_step
    monkeypatch.setattr(second.job, "run_step", lambda step: (done.append(step.name), run(step))[1])
    assert second.run_job()
    second.close()
    assert done == [step.name for step in steps]


def test_a_process_on_another_kind_of_device_waits_for_the_codes(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    begun = worker_of(settings_of(data))
    begun.agree_on_plan()
    monkeypatch.setattr(
        "lightning_omni.data.encoding.loaded_tokenizers.device_facts",
        lambda device: {"device": "another"},
    )
    polled = []

    def finish_meanwhile(seconds):
        polled.append(seconds)
        assert begun.run_job()

    monkeypatch.setattr(ensure_codes_module.time, "sleep", finish_meanwhile)
    assert ensure_codes(settings_of(data), CPU) == settings_of(data).local_codes_folder
    assert polled
    begun.close()


def test_processes_that_wait_for_another_plan_do_not_wait_for_each_other(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    begun = worker_of(settings_of(data))
    begun.agree_on_plan()
    begun.close()
    monkeypatch.setattr(
        "lightning_omni.data.encoding.loaded_tokenizers.device_facts",
        lambda device: {"device": "another"},
    )
    waiting = worker_of(settings_of(data))
    assert waiting.claims.has_other_workers() is False
    waiting.claims.deregister_worker()
    with pytest.raises(OmniError, match="a folder never mixes two"):
        ensure_codes(settings_of(data), CPU)
    waiting.close()


def test_the_claim_of_a_process_is_told_where_starts_are_unknown(claims, tmp_path, monkeypatch):
    one = claims()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "claims/a.claim").write_text(f"{one.host} {child}  word")
    assert one.acquire("a")


def test_what_is_left_behind_the_manifest_is_removed(tmp_path):
    folder = ensure_codes(settings_of(make_data(tmp_path / "data")), CPU)
    before = contents(folder)
    (folder / "encoding/claims").mkdir(parents=True)
    (folder / "encoding/claims/manifest.claim").write_text("host 1 1 word")
    assert contents(ensure_codes(settings_of(tmp_path / "data"), CPU)) == before
