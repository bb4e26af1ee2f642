"""A signal to any process of a run: all save at a step's end, leave with its code, and go on."""

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from several_processes import run_processes, run_until_signalled
from test_killed_runs import AVERAGE, RECIPES, fit, same

from lightning_omni.callbacks.run_record import RECORD
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.stop_signals import EXIT_CODES

pytestmark = pytest.mark.xdist_group("workplace")
STOP, END = 2, 5
STAGE = ["--config", str(RECIPES / "debug/stage3.yaml"), "--trainer.max_steps", str(END)]
AT_THE_END = {  # so that a signal alone saves
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"every_n_train_steps": 1000, "save_last": True},
}
LAST = "stopped/checkpoints/last.ckpt"


@pytest.fixture
def stage(beside):
    """Options of the debug recipe of the joint model, with an average."""
    beside("image_tokenizer", "speech_tokenizer")
    return [*STAGE, "--trainer.callbacks", json.dumps([AVERAGE, AT_THE_END])]


def signalled(rank, *, args, to, number, method="training_step"):
    """A run whose process `to` gets a signal in a step of training or validation."""
    step = getattr(MaskedDiffusionModule, method)

    def with_signal(module, *given):
        if rank == to and module.trainer.global_step == STOP and not module.trainer.sanity_checking:
            os.kill(os.getpid(), number)
        return step(module, *given)

    setattr(MaskedDiffusionModule, method, with_signal)
    return fit(rank, args=args, out="stopped")


def check_goes_on(args):
    """The run left a checkpoint and no export; resumed, it exports what an unbroken run does."""
    here = Path.cwd()
    assert Path(LAST).exists()
    assert not Path("stopped/export").exists()
    assert run_processes(partial(fit, args=args, out="whole"), 2, here) == [0, 0]
    more = [*args, "--ckpt_path", LAST]
    assert run_processes(partial(fit, args=more, out="stopped"), 2, here) == [0, 0]
    assert same("stopped/export", "whole/export")


def stop(args, number, to, **kwargs):
    begun = time.monotonic()
    work = partial(signalled, args=args, number=number, to=to, **kwargs)
    codes = run_processes(work, 2, Path.cwd())
    assert codes == [EXIT_CODES[number]] * 2
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("number", "to", "strategy"),
    [
        (signal.SIGTERM, 1, "fsdp2"),
        (signal.SIGUSR1, 0, "ddp"),
        pytest.param(signal.SIGINT, 1, "ddp", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_process_saves_and_stops_both(
    stage, number, to, strategy, tmp_path, monkeypatch
):
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/bash\necho "$@" >> requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    args = [*stage, "--config", str(RECIPES / f"strategy/{strategy}.yaml")]
    stop(args, number, to)
    if number == signal.SIGUSR1:
        assert Path("requeued").read_text() == "requeue 18\n"
    else:
        assert not Path("requeued").exists()
    check_goes_on(args)


def test_a_signal_in_validation_saves_the_weights_in_training(stage):
    validates = ["--trainer.val_check_interval", str(STOP), "--trainer.limit_val_batches", "2"]
    args = [*stage, *validates, "--config", str(RECIPES / "strategy/ddp.yaml")]
    stop(args, signal.SIGTERM, 1, method="validation_step")
    check_goes_on(args)


TRIALS = [
    (number, to, strategy)
    for number in EXIT_CODES
    for to in (0, 1)
    for strategy in ("ddp", "fsdp2")
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to", "strategy"), TRIALS)
def test_signals_at_any_time_leave_a_checkpoint_within_ten_seconds(
    stage, number, to, strategy, record_property
):
    """Five trials of each kind, 60 in all, at random times of a run of many steps."""
    rng = random.Random(f"{number} {to} {strategy}")
    args = [*stage, "--config", str(RECIPES / f"strategy/{strategy}.yaml")]
    args += ["--trainer.max_steps", "100000", "--trainer.limit_val_batches", "0"]
    for trial in range(5):
        out = f"run{trial}"

        def has_begun(out=out):
            until = time.monotonic() + 120
            while not Path(out, RECORD).exists():  # written after the first step
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2))

        work = partial(fit, args=args, out=out)
        codes, seconds = run_until_signalled(
            work, 2, Path.cwd(), to=to, number=number, when=has_begun
        )
        assert codes == [EXIT_CODES[number]] * 2
        assert Path(out, "checkpoints/last.ckpt").exists()
        assert not Path(out, "export").exists()
        (entry,) = json.loads(Path(out, RECORD).read_text())["starts"]
        record_property(out, f"step {entry['last_step']}, {seconds:.1f} s")
        assert seconds < 10
