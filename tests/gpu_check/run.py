#!/usr/bin/env python3
"""What a GPU run must prove, in one command and within ten minutes.

    python tests/gpu_check/run.py --out DIR [--device cuda|cpu] [--tiny] [--only name,name] [--budget SECONDS]

`lightning_omni` is imported from PYTHONPATH or the current folder. Every check runs in a process of its
own with a time limit, so one that crashes the GPU context costs only itself; what it found is written at
once to DIR/gpu_check.json and DIR/gpu_check.md (a table), profiles to DIR/profiles.txt, and what the
checks printed to DIR/log.txt. `--device cpu --tiny` runs the same code small, in about two minutes, so
that it keeps working; there a GPU is pretended, which finds wrong devices and host syncs without one.

Outcomes: pass; miss (correct, but below its target); FAIL (wrong); error (an exception); unsupported (the
project has not got what the check needs); timeout; skipped (no time left).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from correctness import (
    check_attention,
    check_devices,
    check_environment,
    check_generation,
    check_sharding,
    check_step,
)
from measuring import Options
from project import Unsupported
from speed import (
    check_compile,
    check_encode,
    check_feed,
    check_sampling,
    check_speed_7b,
    check_speed_100m,
    check_syncs,
    check_update,
)
from training import check_average, check_cli, check_processes

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
HERE = Path(__file__).resolve()

CHECKS: dict[str, tuple[Any, int]] = {  # seconds each may take; correctness first
    "environment": (check_environment, 40),
    "devices": (check_devices, 60),
    "attention": (check_attention, 60),
    "step": (check_step, 40),
    "syncs": (check_syncs, 40),
    "sharding": (check_sharding, 40),
    "average": (check_average, 30),
    "update": (check_update, 40),
    "speed_100m": (check_speed_100m, 130),
    "speed_7b": (check_speed_7b, 130),
    "cli": (check_cli, 150),
    "generation": (check_generation, 60),
    "sampling": (check_sampling, 50),
    "feed": (check_feed, 50),
    "encode": (check_encode, 60),
    "compile": (check_compile, 80),
    "processes": (check_processes, 150),
}


BUSY = 5
"""Factor on the limits of checks on a CPU, which other work may share."""
LONG = ("processes",)  # only where they are asked for, or neither --tiny nor on a GPU


def child(name: str, o: Options) -> None:
    try:
        result = CHECKS[name][0](o)
    except Unsupported as error:
        result = {
            "status": "unsupported",
            "headline": f"not supported: {error}",
            "against": "",
            "numbers": {},
        }
    except BaseException as error:  # noqa: BLE001 - reported, and the others go on
        result = {
            "status": "error",
            "headline": f"{type(error).__name__}: {str(error)[:400]}",
            "against": "",
            "numbers": {},
            "traceback": traceback.format_exc(),
        }
        traceback.print_exc()
    o.file.write_text(json.dumps(result, indent=1, default=str))


def forked(name: str, o: Options, log: Path) -> int:
    """On a CPU: a copy of this process, which has imported everything; returns its id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        os.setsid()
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        child(name, o)
    finally:
        os._exit(0)


def run_one(name: str, o: Options, log: Path, environment: dict[str, str]) -> Any:
    """Run a check in a process of its own, for so long; its exit status."""
    if o.device == "cpu":
        pid, end = forked(name, o, log), time.monotonic() + o.seconds + 3
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    command = [
        sys.executable,
        str(HERE),
        "--out",
        str(o.out),
        "--device",
        o.device,
        "--root",
        str(o.root),
        "--child",
        name,
        "--seconds",
        str(o.seconds),
    ]
    with log.open("a") as stream:
        process = subprocess.Popen(
            command + ["--tiny"] * o.tiny,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(timeout=o.seconds + 3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


def commit(root: Path) -> str:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=False
        ).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+changes" if git("status", "--porcelain", "-uno") else ""
    )


def write(out: Path, about: dict[str, Any], results: dict[str, Any]) -> None:
    (out / "gpu_check.json").write_text(
        json.dumps({**about, "checks": results}, indent=1, default=str) + "\n"
    )
    rows = [
        f"| {n} | {r['status']} | {r['headline']} | {r['against']} | {r['seconds']:.0f} |".replace(
            "\n", " "
        )
        for n, r in results.items()
    ]
    head = ", ".join(f"{k} {v}" for k, v in about.items())
    (out / "gpu_check.md").write_text(
        "\n".join(
            (
                f"{head}.\n",
                "| check | outcome | found | wanted | s |",
                "|---|---|---|---|---|",
                *rows,
            )
        )
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the same code, small")
    parser.add_argument("--only", default="", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--budget", type=float, default=560, help="seconds for everything")
    parser.add_argument(
        "--root", type=Path, default=Path.cwd(), help="the repository: recipes, data/smoke"
    )
    parser.add_argument("--commit", help="of the code, where the folder has no .git")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.out, args.root = args.out.resolve(), args.root.resolve()
    if args.child:
        child(
            args.child,
            Options(
                args.device,
                args.tiny,
                args.out,
                args.root,
                args.seconds,
                args.out / f".{args.child}.json",
            ),
        )
        return 0
    usual = [n for n in CHECKS if n not in LONG or (args.device == "cpu" and not args.tiny)]
    names = [n for n in args.only.split(",") if n] or usual
    if unknown := [n for n in names if n not in CHECKS]:
        parser.error(f"no such check: {', '.join(unknown)}")
    about = {
        "commit": args.commit or commit(args.root),
        "device": args.device + (" (tiny)" if args.tiny else ""),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    (args.out / "profiles.txt").unlink(missing_ok=True)
    log = args.out / "log.txt"
    log.write_text("")
    if args.device == "cpu":  # once for all checks; with a GPU each must import by itself
        os.chdir(args.root)
        sys.path.insert(0, str(args.root))
        import torch

        class Mode(torch.utils._contextlib._DecoratorContextManager):
            """Inference mode without inference tensors, which a pretended GPU does not know."""

            def __new__(cls, mode: Any = True) -> Any:
                return super().__new__(cls) if isinstance(mode, bool) else cls()(mode)

            def __init__(self, mode: bool = True) -> None:
                self.mode = mode

            def __enter__(self) -> None:
                self.before = torch.is_grad_enabled()
                torch.set_grad_enabled(self.before and not self.mode)

            def __exit__(self, *error: Any) -> None:
                torch.set_grad_enabled(self.before)

            def clone(self) -> Any:
                return type(self)(self.mode)

        torch.inference_mode = Mode
        for module in (
            "lightning",
            "torch._dynamo",
            "lightning_omni.cli",
            "lightning_omni.modules.masked_diffusion",
            "lightning_omni.generation.omni",
        ):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    results: dict[str, Any] = {}
    started = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(args.root)))),
        "PYTHONUNBUFFERED": "1",
    }
    for name in names:
        left = args.budget - (time.monotonic() - started)
        seconds = min(CHECKS[name][1] * (1 if args.device == "cuda" else BUSY), left)
        file = args.out / f".{name}.json"
        file.unlink(missing_ok=True)
        begun = time.monotonic()
        if left < 8:
            result = {"status": "skipped", "headline": "no time left", "against": "", "numbers": {}}
        else:
            with log.open("a") as stream:
                stream.write(f"==== {name}\n")
            status = run_one(
                name,
                Options(args.device, args.tiny, args.out, args.root, seconds - 3, file),
                log,
                environment,
            )
            if file.is_file():
                result = json.loads(file.read_text())
                file.unlink()
            else:
                late = time.monotonic() - begun >= seconds
                tail = log.read_text().splitlines()[-1:]
                result = {
                    "status": "timeout" if late else "error",
                    "headline": f"after {seconds:.0f} s" if late else f"died with {status}: {tail}",
                    "against": "",
                    "numbers": {},
                }
        result["seconds"] = time.monotonic() - begun
        results[name] = result
        if name == "environment" and "gpu" in result.get("numbers", {}):
            about["device"] = result["numbers"]["gpu"] + (" (tiny)" if args.tiny else "")
        write(args.out, about, results)
        print(
            f"{name:12} {result['status']:12} {result['seconds']:5.0f} s  {result['headline'][:600]}",
            flush=True,
        )
    counts = collections.Counter(r["status"] for r in results.values())
    print(f"{dict(counts)} in {time.monotonic() - started:.0f} s; {args.out / 'gpu_check.md'}")
    return int(any(counts[s] for s in ("FAIL", "error", "timeout")))


if __name__ == "__main__":
    sys.exit(main())
