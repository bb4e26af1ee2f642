"""Tasks that die are tried again, so often; a stand-in for Ray runs them where it is asked."""

from functools import partial
from types import SimpleNamespace

import pytest
from encoding_data import CPU, contents, make_data, settings_of

from lightning_omni.data.encoding.command import load_encoding_job
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.errors import OmniError
from lightning_omni.jobs.executors import ray_tasks
from lightning_omni.jobs.steps import Step


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class InlineRay:
    """Runs a task when its result is fetched; those whose number `dies` names die first."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, dies=lambda job, number: False):
        self.dies, self.started, self.most_at_once = dies, [], 0

    def remote(self, **options):
        assert options["max_retries"] == 0
        return lambda work: SimpleNamespace(remote=partial(self.start, work))

    def start(self, work, *given):
        self.started.append(given[-1])
        return (len(self.started), work, given)

    def wait(self, running, num_returns):
        self.most_at_once = max(self.most_at_once, len(running))
        return running[-1:], running[:-1]

    def get(self, handle):
        number, work, given = handle
        if self.dies(given[-1], number):
            raise RayError("the worker died")
        try:
            return work(*given)
        except OmniError as error:
            raise RayTaskError("traceback") from error


@pytest.fixture
def data(tmp_path):
    yield make_data(tmp_path / "data")
    for worker in ray_tasks._workers.values():
        worker.close()
    ray_tasks._workers.clear()


def encode_with(ray, data, most=2):
    options = {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
    load = partial(load_encoding_job, partial(settings_of, data), "cpu")
    ray_tasks._TaskDriver(ray, load, options, most).run_job()


def test_tasks_that_die_are_tried_again_and_write_the_same(data, tmp_path):
    wanted = contents(ensure_codes(settings_of(make_data(tmp_path / "other")), CPU))
    ray = InlineRay(dies=lambda job, number: number % 3 == 0)
    encode_with(ray, data)
    assert contents(settings_of(data).local_codes_folder) == wanted
    assert ray.most_at_once == 2
    encode_with(again := InlineRay(), data)
    assert again.started == [0, "finish"]


def test_a_shard_whose_tasks_always_die_is_given_up(data):
    ray = InlineRay(dies=lambda job, number: isinstance(job, Step) and "train-000001" in job.name)
    with pytest.raises(OmniError, match=r"3 tasks for media\.\w+\.\w+-train-000001 have died"):
        encode_with(ray, data, most=1)
    names = [job.name for job in ray.started if isinstance(job, Step)]
    assert max(names.count(name) for name in names) == 3


def test_the_sentence_of_a_task_is_told_at_once(data):
    (data / "media" / "image-train-000001.tar").unlink()
    ray = InlineRay()
    with pytest.raises(OmniError, match="not in the media shards"):
        encode_with(ray, data)
    assert len(ray.started) == len(set(ray.started))
