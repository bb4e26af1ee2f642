"""Others wait for the first process longer than their own process group would."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from several_processes import run_processes

from lightning_omni.callbacks.first_process import FirstProcess

LATE_S, LIMIT_S = 2.5, 1.0
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*", "ignore:.*gloo.*")


def train_after(waits):
    """One all-reduce of training, for which the first process comes late."""

    def work(rank):
        group = dist.new_group(timeout=timedelta(seconds=LIMIT_S))
        first = FirstProcess()
        first.make_process_group()
        if waits:
            with first.others_wait():
                time.sleep(LATE_S * (rank == 0))
        else:
            time.sleep(LATE_S * (rank == 0))
        total = torch.ones(1)
        dist.all_reduce(total, group=group)
        return total.item()

    return work


def test_others_wait_longer_than_their_process_group_would(tmp_path):
    assert run_processes(train_after(waits=True), 2, tmp_path, joins=True) == [2, 2]


def test_without_waiting_the_process_group_gives_up(tmp_path):
    with pytest.raises(AssertionError, match=r"[Tt]imed? ?out"):
        run_processes(train_after(waits=False), 2, tmp_path, joins=True)


def test_one_process_waits_for_nobody():
    first = FirstProcess()
    first.make_process_group()
    with first.others_wait():
        done = True
    assert done
