"""Runs of a debug recipe as processes that are forked from one that has imported all."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import warmed  # noqa: F401
from several_processes import free_port

from lightning_omni.cli import main
from lightning_omni.modules.checkpoint_folder import read_checkpoint_folder

DEBUG = Path(__file__).parents[2] / "recipes" / "debug"
STRATEGIES = Path(__file__).parents[2] / "recipes" / "strategy"
TRAINED = "FAULTS_TRAINED"
"""Variable of a folder with smoke data and tokenizers; where it is not set they are made."""
LAST = Path("checkpoints/last.ckpt")
PATIENCE_S = 180.0
AVERAGE = {"class_path": "lightning_omni.callbacks.ema.EMA", "init_args": {"decay": 0.5}}


def keeper(every: int) -> dict[str, object]:
    """Checkpoints in every so many steps."""
    return {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": every, "save_last": True},
    }


def options(
    steps: int,
    every: int,
    *more: str,
    recipe: str = "stage3",
    callbacks: Sequence[object] = (),
) -> list[str]:
    """Options of a run of so many steps, with an average, that is saved in every so many."""
    used = [AVERAGE, keeper(every), *callbacks]
    return [
        *("--config", str(DEBUG / f"{recipe}.yaml"), "--trainer.callbacks", json.dumps(used)),
        *("--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"),
        *("--run_defaults", "[checkpoints,export,record]", "--trainer.logger", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--trainer.accelerator", "cpu", *more),
    ]


@cache
def workplace() -> Path:
    """A folder with smoke data and the debug tokenizers."""
    if TRAINED in os.environ:
        return Path(os.environ[TRAINED])
    folder = Path(tempfile.mkdtemp(prefix="faults-data-"))
    made = [["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "c"]]
    made += [
        ["fit", "--config", str(DEBUG / f"{name}.yaml")]
        for name in ("image_tokenizer", "speech_tokenizer")
    ]
    for args in made:
        child = fork(lambda args=args: main(args), folder, folder / "log.txt")
        assert wait([child]) == [0], (folder / "log.txt").read_text()
    return folder


def furnish(folder: Path) -> Path:
    """Link data and tokenizers into a folder."""
    given = workplace()
    (folder / "runs/debug").mkdir(parents=True)
    (folder / "data").symlink_to(given / "data")
    for name in ("image_tokenizer", "speech_tokenizer"):
        (folder / "runs/debug" / name).symlink_to(given / "runs/debug" / name)
    return folder


def fork(work: Callable[[], int], folder: Path, log: Path, **env: str) -> int:
    """Start a process in a folder that leaves with what the work returns; return its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setpgid(0, 0)
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        os.chdir(folder)
        os.environ.update(env)
        tempfile.tempdir = None
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        logging.getLogger().handlers.clear()  # those of pytest
        os.environ.pop("LIGHTNING_OMNI_TRACEBACK", None)
        code = work()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001  told by the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fit(
    args: Sequence[str],
    folder: Path,
    out: str,
    *,
    ranks: int = 1,
    prepare: Callable[[int], None] | None = None,
    verb: str = "fit",
    **env: str,
) -> list[int]:
    """Start the processes of a run; `prepare(rank)` is called in each. Return their numbers."""
    given = [verb, *args, "--trainer.default_root_dir", out, "--trainer.devices", str(ranks)]
    port = str(free_port())

    def work(rank: int) -> int:
        if prepare is not None:
            prepare(rank)
        return main(given)

    children = []
    for rank in range(ranks):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
        place |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "RANK": str(rank)}
        used = place if ranks > 1 else {}
        log = folder / f"{out}-{rank}.log"
        children.append(fork(lambda rank=rank: work(rank), folder, log, **used, **env))
    return children


def wait(children: Iterable[int], patience_s: float = PATIENCE_S) -> list[int | None]:
    """Exit codes of processes, negative for a signal; None for one that had to be killed."""
    codes: list[int | None] = []
    until = time.monotonic() + patience_s
    for child in children:
        status = None
        while status is None:
            ended, found = os.waitpid(child, os.WNOHANG)
            if ended:
                status = found
            elif time.monotonic() > until:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            else:
                time.sleep(0.01)
        codes.append(None if status is None else os.waitstatus_to_exitcode(status))
    return codes


def wait_for(path: Path, children: Sequence[int]) -> bool:
    """Whether a file comes into being before a process has ended."""
    until = time.monotonic() + PATIENCE_S
    while not path.exists() and time.monotonic() < until:
        for child in children:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return path.exists()
        time.sleep(0.005)
    return path.exists()


def told(folder: Path, out: str, most: int = 400) -> str:
    """The end of what the processes of a run wrote."""
    return " | ".join(p.read_text()[-most:] for p in sorted(folder.glob(f"{out}-*.log")))


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between the exports and last checkpoints of two runs."""
    found = []
    weights = [p.name for p in (one / "export").glob("*.safetensors")] or ["*.safetensors"]
    for name in (*weights, "config.json"):
        files = [run / "export" / name for run in (one, other)]
        if not all(file.is_file() for file in files):
            found.append(f"export/{name} is missing")
        elif files[0].read_bytes() != files[1].read_bytes():
            found.append(f"export/{name}")
    first, second = read_last(one), read_last(other)
    kinds = (
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "OmniData",
        "global_step",
        "updates",
    )
    found += [kind for kind in kinds if not is_equal(first.get(kind), second.get(kind))]
    averages = [read["callbacks"]["EMAWeightAveraging"] for read in (first, second)]
    return found if is_equal(*averages) else [*found, "average"]


def read_last(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run, a file or a folder."""
    path = run / LAST
    if path.is_dir():
        return read_checkpoint_folder(path, has_processes=False)
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def is_equal(one: object, other: object) -> bool:
    """Whether two plain values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return one == other
