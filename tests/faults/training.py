"""Training that is killed, signalled, resumed, or meets numbers that are not finite."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from fault import Fault, Outcome
from small_runs import (
    LAST,
    PATIENCE_S,
    STRATEGIES,
    differences,
    fit,
    furnish,
    is_equal,
    options,
    read_last,
    told,
    wait,
    wait_for,
)
from torch.distributed.tensor import DTensor

from lightning_omni.callbacks.run_record import RECORD
from lightning_omni.callbacks.skip_non_finite import AVERAGED, SkipNonFinite
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule
from lightning_omni.stop_signals import EXIT_CODES, HUNG

STEPS, EVERY, KILLS = 30, 3, 8


@cache
def unbroken(*args: str, ranks: int = 1, prepare: Callable[[int], None] | None = None) -> Path:
    """The folder of a run with these options that is not disturbed."""
    folder = furnish(Path(tempfile.mkdtemp(prefix="faults-unbroken-")))
    codes = wait(fit(args, folder, "run", ranks=ranks, prepare=prepare or note_samples))
    assert codes == [0] * ranks, told(folder, "run")
    return folder / "run"


def kill_and_resume(number: int, folder: Path) -> Iterator[Outcome]:
    """Kill a run at eight random times, resume it each time, and compare its end."""
    rng = Random(f"kill-{number}")
    args = options(STEPS, EVERY)
    truth = unbroken(*args)
    furnish(folder)
    shared = Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm" if number % 2 else folder))
    codes: list[int | None] = []
    for _ in range(KILLS):
        record = folder / "run" / RECORD
        begun = record.stat().st_mtime_ns if record.exists() else 0
        children = fit([*args, *resumes(folder)], folder, "run", TMPDIR=str(shared))
        until = time.monotonic() + 60
        while time.monotonic() < until and is_alive(children[0]):
            if record.exists() and record.stat().st_mtime_ns != begun:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.8))
        os.kill(children[0], signal.SIGKILL)
        codes += wait(children)
        torn = [p.name for p in folder.glob("run/checkpoints/*.ckpt") if not can_be_read(p)]
        is_right = codes[-1] in (0, -signal.SIGKILL) and not torn
        what = f"left {torn or codes[-1]}" if not is_right else "killed, no file is torn"
        if codes[-1] == 0:
            what = "had ended before it was killed"
        yield Outcome(is_right, what, told(folder, "run"))
    (last,) = wait(fit([*args, *resumes(folder)], folder, "run", TMPDIR=str(shared)))
    shutil.rmtree(shared, ignore_errors=True)
    if last != 0:
        yield Outcome(False, f"resuming leaves with {last}", told(folder, "run"))
        return
    found = differences(truth, folder / "run")
    what = f"{', '.join(found)} differ" if found else "ended bit-equal to an unbroken run"
    yield Outcome(not found, what, f"number {number}, codes {codes}")


def resumes(folder: Path) -> list[str]:
    """Options that resume a run if it has been saved."""
    return ["--ckpt_path", "last"] if (folder / "run" / LAST).exists() else []


def is_alive(child: int) -> bool:
    """Whether a process runs."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def can_be_read(path: Path) -> bool:
    """Whether a checkpoint is whole."""
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # noqa: BLE001
        return False
    return True


def signal_a_rank(number: int, folder: Path) -> Iterator[Outcome]:
    """Send a signal to one of two processes at a random time of training."""
    rng = Random(f"signal-{number}")
    sent = list(EXIT_CODES)[number % 3]
    to, strategy = number // 3 % 2, ("ddp", "fsdp2")[number // 6 % 2]
    furnish(folder)
    args = options(100_000, 100_000, "--config", str(STRATEGIES / f"{strategy}.yaml"))
    children = fit(args, folder, "run", ranks=2)
    assert wait_for(folder / "run" / RECORD, children), told(folder, "run")
    time.sleep(rng.uniform(0, 1.5))
    os.kill(children[to], sent)
    begun = time.monotonic()
    codes = wait(children)
    yield judge_stop(folder, codes, time.monotonic() - begun, EXIT_CODES[sent])


def judge_stop(folder: Path, codes: list[int | None], seconds: float, wanted: int) -> Outcome:
    """Whether processes left with a code and a checkpoint, in ten seconds, without an export."""
    is_saved = (folder / "run" / LAST).exists()
    is_exported = (folder / "run/export").exists()
    detail = f"codes {codes}, {seconds:.1f} s, saved {is_saved}: {told(folder, 'run')}"
    if None in codes:
        return Outcome(False, "hangs", detail)
    is_right = codes == [wanted] * len(codes) and is_saved and not is_exported and seconds < 10
    return Outcome(is_right, "all left with the code and a checkpoint in 10 s", detail)


def signal_a_launched_run(number: int, folder: Path) -> Iterator[Outcome]:
    """Send SIGTERM to a process of two that Lightning starts: before training, or in it."""
    rng = Random(f"launched-{number}")
    to, is_training = number % 2, number // 2 % 2
    furnish(folder)
    args = options(100_000, 100_000, "--config", str(STRATEGIES / "ddp.yaml"))
    command = [sys.executable, "-m", "lightning_omni", "fit", *args, "--trainer.devices", "2"]
    command += ["--trainer.default_root_dir", "run"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "run-0.log").open("wb") as log:
        first = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    until = time.monotonic() + PATIENCE_S
    while not (second := launched_by(first.pid)) and time.monotonic() < until:
        time.sleep(0.01)
    if is_training:
        assert wait_for(folder / "run" / RECORD, [first.pid]), told(folder, "run")
    else:
        time.sleep(rng.uniform(0, 10))
    is_training = (folder / "run" / RECORD).exists()
    os.kill((first.pid, second[0])[to], signal.SIGTERM)
    begun = time.monotonic()
    codes = wait([first.pid], 60)
    seconds = time.monotonic() - begun
    until = time.monotonic() + 10
    while (left := [n for n in second if is_running(n)]) and time.monotonic() < until:
        time.sleep(0.1)
    if is_training:
        yield judge_stop(folder, codes, seconds, 143)
    detail = f"code {codes}, {seconds:.1f} s, left {left}: {told(folder, 'run')}"
    is_right = not left and codes[0] not in (0, None)
    yield Outcome(is_right, "left with a code other than 0, and no process stays", detail)
    for one in left:
        os.kill(one, signal.SIGKILL)


def is_running(process: int) -> bool:
    """Whether a process, of whichever parent, is neither gone nor waits to be collected."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def launched_by(process: int) -> list[int]:
    """Numbers of the second processes that a process has started."""
    return [n for n in children_of(process) if b"LOCAL_RANK=1" in environment_of(n)]


def environment_of(process: int) -> bytes:
    """The variables with which a process began, none if it is gone."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return b""


def children_of(process: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    try:
        return [
            int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


def signal_validation(number: int, folder: Path) -> Iterator[Outcome]:
    """Send SIGTERM to one of two processes of the verb `validate`."""
    rng = Random(f"validate-{number}")
    to = number % 2
    trained = unbroken(*options(2, 1))
    furnish(folder)
    args = [one for one in options(2, 1) if one not in ("--trainer.limit_val_batches", "0")]
    args += ["--ckpt_path", str(trained / LAST), "--data.val_samples", "64"]
    args += ["--config", str(STRATEGIES / "ddp.yaml")]

    def slowly(rank: int) -> None:
        step = MaskedDiffusionModule.validation_step

        def validation_step(module: Any, *given: Any) -> None:
            Path(f"begun{rank}").touch()
            time.sleep(0.2)
            step(module, *given)

        MaskedDiffusionModule.validation_step = validation_step

    children = fit(args, folder, "run", ranks=2, prepare=slowly, verb="validate")
    assert wait_for(folder / f"begun{to}", children), told(folder, "run")
    time.sleep(rng.uniform(0, 0.3))
    os.kill(children[to], signal.SIGTERM)
    begun = time.monotonic()
    codes = wait(children, 60)
    detail = f"codes {codes}, {time.monotonic() - begun:.1f} s: {told(folder, 'run')}"
    if None in codes:
        yield Outcome(False, "hangs", detail)
    is_right = codes[to] == 143 and 0 not in codes
    yield Outcome(is_right, "left with the code, the other one with an error", detail)


def resume_three_times(number: int, folder: Path) -> Iterator[Outcome]:
    """End a run in mid-epoch three times, resume it, and compare samples, weights and export."""
    rng = Random(f"resume-{number}")
    workers, ranks = (0, 2)[number % 2], (1, 2)[number // 2 % 2]
    more = ["--data.num_workers", str(workers), "--config", str(STRATEGIES / "ddp.yaml")]
    end = 14
    truth = unbroken(*options(end, 1, *more), ranks=ranks)
    furnish(folder)
    for stop in [*sorted(rng.sample(range(1, end), 3)), end]:
        args = [*options(stop, 1, *more), *resumes(folder)]
        codes = wait(fit(args, folder, "run", ranks=ranks, prepare=note_samples))
        if codes != [0] * ranks:
            yield Outcome(False, f"leaves with {codes}", told(folder, "run"))
            return
    for rank in range(ranks):
        seen, wanted = (
            (place / f"samples{rank}.txt").read_text().split() for place in (folder, truth.parent)
        )
        lost, repeated = Counter(wanted) - Counter(seen), Counter(seen) - Counter(wanted)
        what = f"{lost.total()} lost, {repeated.total()} repeated, in order: {seen == wanted}"
        yield Outcome(seen == wanted and len(seen) > 10 * end, what, f"{len(seen)} samples")
    found = differences(truth, folder / "run")
    what = f"{', '.join(found)} differ" if found else "ended bit-equal to an unbroken run"
    yield Outcome(not found, what, f"number {number}")


def note_samples(rank: int) -> None:
    """Write down the samples that a process trains on."""
    step = MaskedDiffusionModule.training_step

    def training_step(module: Any, batch: Any, index: int) -> Any:
        with Path(f"samples{rank}.txt").open("a") as file:
            used = zip(batch.host_tasks, batch.keys, batch.sample_index.tolist(), strict=True)
            file.write("".join(f"{k}:{i}\n" for task, k, i in used if task >= 0))
        return step(module, batch, index)

    MaskedDiffusionModule.training_step = training_step


SPOILT_AT = 3
LAYOUTS = (
    ("one process", 1, ()),
    ("one process, two batches a step", 1, ("--trainer.accumulate_grad_batches", "2")),
    ("ddp", 2, ("--config", str(STRATEGIES / "ddp.yaml"))),
    (
        "ddp, two batches a step",
        2,
        ("--config", str(STRATEGIES / "ddp.yaml"), "--trainer.accumulate_grad_batches", "2"),
    ),
    ("fsdp2", 2, ("--config", str(STRATEGIES / "fsdp2.yaml"))),
)
KINDS = ("a loss is NaN", "a loss is infinite", "a gradient is NaN", "a loss is a million times")
FACTORS = (float("nan"), float("inf"), None, 1e6)


def spoil(rank: int, *, kind: int, ranks: int, steps: tuple[int, ...]) -> None:
    """Spoil the loss, or its gradient, of the last process in some steps."""
    step, states = MaskedDiffusionModule.training_step, MaskedDiffusionModule._final_states

    def training_step(module: Any, *given: Any) -> Any:
        loss = step(module, *given)
        is_spoilt = rank == ranks - 1 and module.global_step in steps
        return loss * FACTORS[kind] if is_spoilt and FACTORS[kind] is not None else loss

    def final_states(module: Any, *given: Any) -> Any:
        hidden = states(module, *given)
        is_spoilt = rank == ranks - 1 and module.global_step in steps and FACTORS[kind] is None
        if is_spoilt and hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient * float("nan"))
        return hidden

    MaskedDiffusionModule.training_step = training_step
    MaskedDiffusionModule._final_states = final_states
    keep_weights(rank)


def leave_out(rank: int) -> None:
    """Leave out the update of a step by hand, as the truth of what is skipped."""

    def on_before_optimizer_step(guard: Any, trainer: Any, module: Any, optimizer: Any) -> None:
        guard.skips = [torch.tensor(float(trainer.global_step == SPOILT_AT))]
        guard._of_loss = [torch.zeros(())] * 2
        if guard.skips[-1]:
            optimizer.zero_grad(set_to_none=True)

    SkipNonFinite.on_before_optimizer_step = on_before_optimizer_step
    keep_weights(rank)


def keep_weights(rank: int) -> None:
    """Keep the weights of each process at the end of training."""

    def on_train_end(module: Any) -> None:
        own = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in module.state_dict().items()
        }
        torch.save(own, f"weights{rank}.pt")

    MaskedDiffusionModule.on_train_end = on_train_end


def spoil_a_step(number: int, folder: Path) -> Iterator[Outcome]:
    """Spoil a step on one process; all skip it and end as if it had been left out."""
    kind, (layout, ranks, more) = number % len(KINDS), LAYOUTS[number // len(KINDS) % len(LAYOUTS)]
    is_spike = FACTORS[kind] == 1e6
    args = options(6, 2, *more)
    furnish(folder)
    work = partial(spoil, kind=kind, ranks=ranks, steps=(SPOILT_AT,))
    codes = wait(fit(args, folder, "run", ranks=ranks, prepare=work))
    detail = f"{KINDS[kind]}, {layout}: {codes} {told(folder, 'run')}"
    if codes != [0] * ranks:
        yield Outcome(False, f"leaves with {codes}", detail)
        return
    weights = [torch.load(folder / f"weights{rank}.pt") for rank in range(ranks)]
    is_finite = all(bool(w.isfinite().all()) for own in weights for w in own.values())
    is_same = all(is_equal(weights[0], own) for own in weights)
    state = read_last(folder / "run")["callbacks"]["SkipNonFinite"]
    is_counted = state["skipped"] == (0 if is_spike else 1) and state["in_a_row"] == 0
    is_told = is_spike or f"step {SPOILT_AT + 1} is skipped" in told(folder, "run", 10_000)
    is_right = is_finite and is_same and is_counted and is_told
    what = "trained on, weights finite and equal" if is_spike else "skipped by all and counted"
    yield Outcome(is_right, what, f"{is_finite} {is_same} {is_counted} {is_told} {detail}")
    if not is_spike:
        found = differences(unbroken(*args, ranks=ranks, prepare=leave_out), folder / "run")
        what = f"{', '.join(found)} differ" if found else "ended as if the step were left out"
        yield Outcome(not found, what, detail)


TOKENIZERS = {
    "image_tokenizer": (ImageTokenizerModule, 4, 12),
    "speech_tokenizer": (SpeechTokenizerModule, 5, 9),
    "speech_tokenizer_seanet": (SpeechTokenizerModule, 3, 12),
}
"""Module of a recipe, the update that is spoilt, behind its other phases, and its steps."""


def spoil_media(rank: int, *, recipe: str, ranks: int) -> None:
    """Spoil a batch of the last process."""
    kind, at, _ = TOKENIZERS[recipe]
    step = kind.training_step

    def training_step(module: Any, media: Any, index: int) -> None:
        is_spoilt = rank == ranks - 1 and module.updates == at
        step(module, media * float("nan") if is_spoilt else media, index)

    kind.training_step = training_step


def leave_out_media(rank: int, *, recipe: str) -> None:
    """Leave out an update by hand."""
    _, at, _ = TOKENIZERS[recipe]

    def on_before_optimizer_step(guard: Any, trainer: Any, module: Any, optimizer: Any) -> None:
        guard.skips = [torch.tensor(float(module.updates == at))]
        guard._of_loss = [torch.zeros(())] * 2
        if guard.skips[-1]:
            optimizer.zero_grad(set_to_none=True)

    SkipNonFinite.on_before_optimizer_step = on_before_optimizer_step


def spoil_a_tokenizer(number: int, folder: Path) -> Iterator[Outcome]:
    """Spoil a batch of one process; tokenizer, critic, codebooks and average stay as they are."""
    recipe, ranks = list(TOKENIZERS)[number % 3], (1, 2)[number // 3 % 2]
    steps = TOKENIZERS[recipe][2]
    args = options(steps, steps, "--config", str(STRATEGIES / "ddp.yaml"), recipe=recipe)
    furnish(folder)
    work = partial(spoil_media, recipe=recipe, ranks=ranks)
    codes = wait(fit(args, folder, "run", ranks=ranks, prepare=work))
    detail = f"{recipe} on {ranks}: {codes} {told(folder, 'run', 2000)}"
    if codes != [0] * ranks:
        yield Outcome(False, f"leaves with {codes}", detail)
        return
    read = read_last(folder / "run")
    states = [
        *read["state_dict"].values(),
        *read["callbacks"]["EMAWeightAveraging"][AVERAGED].values(),
    ]
    is_finite = all(bool(w.isfinite().all()) for w in states)
    is_counted = read["callbacks"]["SkipNonFinite"]["skipped"] == 1
    yield Outcome(is_finite and is_counted, "skipped by all and counted", detail)
    if recipe.endswith("seanet"):
        return  # its balancer knows the gradients that are left out by hand
    truth = folder / "truth"
    truth.mkdir()
    furnish(truth)
    by_hand = partial(leave_out_media, recipe=recipe)
    codes = wait(fit(args, truth, "run", ranks=ranks, prepare=by_hand))
    found = differences(truth / "run", folder / "run")
    what = f"{', '.join(found)} differ" if found else "ended as if the step were left out"
    yield Outcome(not found and not any(codes), what, detail)


def spoil_all_steps(number: int, folder: Path) -> Iterator[Outcome]:
    """Spoil every step from one on; the run ends itself, and what it saved is good."""
    kind, (layout, ranks, more) = number % 3, LAYOUTS[(0, 2, 4)[number // 3 % 3]]
    furnish(folder)
    work = partial(spoil, kind=kind, ranks=ranks, steps=tuple(range(SPOILT_AT, 100)))
    codes = wait(fit(options(60, 1, *more), folder, "run", ranks=ranks, prepare=work))
    read = read_last(folder / "run")
    is_finite = all(w.isfinite().all() for w in read["state_dict"].values())
    is_exported = (folder / "run/export").exists()
    is_right = codes == [2] * ranks and is_finite and not is_exported
    told_of = "10 steps in a row were skipped" in told(folder, "run", 4000)
    detail = f"{KINDS[kind]}, {layout}: {codes} {is_finite} {told(folder, 'run')}"
    yield Outcome(is_right and told_of, "stopped with code 2; the last checkpoint is good", detail)


def hang_a_step(number: int, folder: Path) -> Iterator[Outcome]:
    """Let a step of one process not end; the run leaves, and goes on when it is started again."""
    ranks, to = (2, 2, 1)[number % 3], number % 2
    watchdog = {
        "class_path": "lightning_omni.callbacks.watchdog.Watchdog",
        "init_args": {"timeout_s": 5},
    }
    more = ["--config", str(STRATEGIES / "ddp.yaml")]
    args = options(6, 1, *more, callbacks=[watchdog])
    furnish(folder)
    work = partial(hang, to=min(to, ranks - 1))
    begun = time.monotonic()
    codes = wait(fit(args, folder, "run", ranks=ranks, prepare=work))
    stacks = [p for p in (folder / "run").glob("hung-rank*.txt") if "final_wait" in p.read_text()]
    detail = f"{codes}, {time.monotonic() - begun:.1f} s, {stacks}: {told(folder, 'run')}"
    is_right = HUNG in codes and not {0, None} & set(codes) and bool(stacks)
    yield Outcome(is_right, "ended itself and showed where it hung", detail)
    codes = wait(fit([*args, *resumes(folder)], folder, "run", ranks=ranks))
    found = differences(unbroken(*options(6, 1, *more), ranks=ranks), folder / "run")
    what = f"{', '.join(found)} differ" if found else "ended bit-equal to an unbroken run"
    yield Outcome(not found and not any(codes), what, f"{codes} {told(folder, 'run')}")


def hang(rank: int, *, to: int) -> None:
    """Hang in the third step of a process."""
    step = MaskedDiffusionModule.training_step

    def final_wait() -> None:
        time.sleep(10_000)

    def training_step(module: Any, *given: Any) -> Any:
        if rank == to and module.global_step == 2:
            final_wait()
        return step(module, *given)

    MaskedDiffusionModule.training_step = training_step


def export_again(number: int, folder: Path) -> Iterator[Outcome]:
    """Resume a run that is complete but for its export."""
    name = ("stage3", "image_tokenizer", "speech_tokenizer")[number % 3]
    ranks = (1, 2)[number // 3 % 2]
    steps = (6, 12, 9)[number % 3]
    args = options(steps, steps, "--config", str(STRATEGIES / "ddp.yaml"), recipe=name)
    furnish(folder)
    codes = wait(fit(args, folder, "run", ranks=ranks))
    (folder / "run/export").rename(folder / "first")
    codes += wait(fit([*args, "--ckpt_path", "last"], folder, "run", ranks=ranks))
    files = [p.name for p in (folder / "first").glob("*.safetensors")]
    is_same = bool(files) and all(
        (folder / "first" / n).read_bytes() == (folder / "run/export" / n).read_bytes()
        for n in files
    )
    detail = f"{name} on {ranks}: {codes} {files} {told(folder, 'run')}"
    yield Outcome(is_same and not any(codes), "exported the averaged weights again", detail)


FAULTS: tuple[Fault, ...] = (
    Fault("a run is killed eight times, half with TMPDIR elsewhere", 25, kill_and_resume),
    Fault("a signal to one of two processes that train", 60, signal_a_rank, 0),
    Fault("SIGTERM to one of two processes that Lightning started", 8, signal_a_launched_run, 0),
    Fault("SIGTERM to one of two processes that validate", 6, signal_validation, 0),
    Fault("a run is resumed three times in mid-epoch", 12, resume_three_times, 0),
    Fault("a step is spoilt on one process", 20, spoil_a_step),
    Fault("all steps are spoilt from one on", 9, spoil_all_steps, 0),
    Fault("a complete run is resumed for its export", 6, export_again, 0),
    Fault("a batch of a tokenizer is NaN on one process", 6, spoil_a_tokenizer, 0),
    Fault("a step of one process hangs", 6, hang_a_step, 0),
)
