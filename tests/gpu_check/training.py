"""Checks of training through the command line: resumption, averaging, two processes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measuring import (
    Options,
    outcome,
)
from project import PROJECT, Unsupported, need


def check_cli(o: Options) -> dict[str, Any]:
    """`fit` through the real command line; killed and resumed it has the losses of an unbroken run."""
    import csv

    import yaml

    if not (o.root / PROJECT.data).is_dir():
        raise Unsupported(f"{PROJECT.data} under {o.root}: carry a prepared folder")
    accelerator = "gpu" if o.device == "cuda" else "cpu"
    steps, every = (12, 4) if o.tiny else (60, 10)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(o.root), os.environ.get("PYTHONPATH")))),
    }
    folder = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    seconds: dict[str, float] = {}

    def run(name: str, *args: str, until: Any = None) -> None:
        start = time.perf_counter()
        with (o.out / "log.txt").open("a") as log:
            log.write(f"== {name}: {' '.join(args)}\n")
            log.flush()
            process = subprocess.Popen(
                [*PROJECT.command(), *args],
                cwd=o.root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None:
                time.sleep(0.02)
                if until is not None and until():
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                elif o.left() < 3:
                    process.kill()
                    raise TimeoutError(f"{name} took too long")
        seconds[name] = time.perf_counter() - start
        if process.returncode and until is None:
            tail = (o.out / "log.txt").read_text().splitlines()[-3:]
            raise RuntimeError(f"{name} ended with {process.returncode}: {' | '.join(tail)}")

    def losses(where: Path) -> dict[int, float]:
        found: dict[int, float] = {}
        for path in sorted(where.glob("log*/metrics.csv")):
            with path.open() as file, contextlib.suppress(ValueError):  # a line may be half written
                for row in csv.DictReader(file):
                    if row.get("train/loss"):
                        found[int(row["step"])] = float(row["train/loss"])
        return found

    trained: dict[str, str] = {}
    exports = {name: o.root / f"runs/debug/{name}/export" for name in PROJECT.tokenizer_recipes}

    def train(name: str) -> None:
        try:
            run(
                name,
                "fit",
                "--config",
                f"recipes/debug/{name}.yaml",
                "--trainer.accelerator",
                accelerator,
            )
            trained[name] = "trained"
        except (RuntimeError, TimeoutError) as error:
            trained[name] = str(error)[:300]

    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                train,
                [n for n, export in exports.items() if o.device == "cuda" or not export.is_dir()],
            )
        )
    o.keep({"trained": trained, "seconds": seconds}, f"tokenizers {trained or 'found'}")
    if not all(export.is_dir() for export in exports.values()):
        return outcome(
            False,
            f"the tokenizers of the debug recipes cannot be trained here: {trained}",
            "both train",
            trained=trained,
        )
    found = {}
    for name in ("unbroken", "resumed"):
        where = folder / name
        where.mkdir(parents=True, exist_ok=True)
        recipe = PROJECT.recipe(o.root, accelerator, steps, every, where)
        (where / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        args = ["fit", "--config", str(where / "recipe.yaml")]
        if name == "unbroken":
            run(name, *args)
        else:
            last = where / "checkpoints/last.ckpt"
            run(
                "killed",
                *args,
                until=lambda last=last, where=where: (
                    last.is_file() and max(losses(where), default=-1) >= 2 * every
                ),
            )
            (where / "log").rename(where / "log-killed")
            run("resumed", *args, "--ckpt_path", str(last))
        found[name] = losses(where)
        o.keep(
            {"trained": trained, "seconds": seconds, "losses": found},
            f"tokenizers {trained or 'found'}; {name} has {len(found[name])} losses",
        )
    both = sorted(found["unbroken"].keys() & found["resumed"].keys())
    apart = max(
        (abs(found["resumed"][i] / found["unbroken"][i] - 1) for i in both), default=math.nan
    )
    finite = all(map(math.isfinite, found["unbroken"].values()))
    limit = 0.0 if o.device == "cpu" else 2e-2
    equal = sum(found["resumed"][i] == found["unbroken"][i] for i in both)
    failed = [n for n, t in trained.items() if t != "trained"]
    ok = finite and len(both) >= steps - 1 and apart <= limit and not failed
    return outcome(
        ok,
        f"{len(both)} of {steps} steps compared after a kill, {equal} bit for bit, worst apart {apart:.1e}; tokenizers {trained or 'found'}; seconds { ({k: round(v) for k, v in seconds.items()}) }",
        f"apart at most {limit:g}; both tokenizers train",
        losses=found,
        seconds=seconds,
        trained=trained,
    )


def check_average(o: Options) -> dict[str, Any]:
    """The averaged copy of the weights lies where the weights are."""
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import EMAWeightAveraging

    order: list[str] = []
    made: Any = EMAWeightAveraging
    for path in ("lightning_omni.callbacks.ema:EMA", "lightning_omni.callbacks.average:EMA"):
        with contextlib.suppress(Unsupported):
            made = need(path)
    callback = made(decay=0.9)

    def kept() -> set[str]:
        """Kinds of devices of the tensors that the callback holds."""
        found: set[str] = set()

        def look(x: Any) -> None:
            if isinstance(x, torch.Tensor):
                found.add(x.device.type)
            elif isinstance(x, torch.nn.Module):
                look(list(x.parameters()))
            elif isinstance(x, list | tuple | dict):
                for y in x.values() if isinstance(x, dict) else x:
                    look(y)

        look(vars(callback))
        return found

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def training_step(self, batch: Any, number: int) -> Any:
            order.append(f"{' and '.join(sorted(kept())) or 'nothing'} beside {self.device.type}")
            return self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def to(self, *args: Any, **kwargs: Any) -> Any:
            order.append("moved after the copy was made" if kept() else "moved")
            return super().to(*args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            accelerator="gpu" if o.device == "cuda" else "cpu",
            devices=1,
            max_steps=2,
            callbacks=[callback],
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Model(), torch.utils.data.DataLoader(torch.randn(4, 4)))
    late = any("after" in x for x in order)
    apart = any("cpu beside cuda" in x for x in order)
    return outcome(
        not (apart if o.device == "cuda" else late),
        f"{made.__name__}: {', '.join(dict.fromkeys(order))}",
        "the copy is made after the model was moved",
        speed=True,
        order=order,
    )


def check_processes(o: Options) -> dict[str, Any]:
    """Two processes share the gradients (DDP over gloo): the debug recipes of stage and tokenizers run."""
    import yaml

    if o.device == "cuda":
        raise Unsupported("two processes on one GPU; this check is for the CPU")
    if not (o.root / PROJECT.data).is_dir():
        raise Unsupported(f"{PROJECT.data} under {o.root}")
    folder, found = Path(tempfile.mkdtemp(prefix="gpu_check-")), {}
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(PROJECT.recipe(o.root, "cpu", 4, 4, folder), sort_keys=False)
    )
    recipes = [
        str(folder / "recipe.yaml"),
        *(
            f"recipes/debug/{n}.yaml"
            for n in (*PROJECT.tokenizer_recipes, "speech_tokenizer_seanet")
        ),
    ]
    for recipe in recipes:
        args = [
            "fit",
            "--config",
            recipe,
            "--trainer.devices",
            "2",
            "--trainer.strategy",
            "ddp",
            "--trainer.max_steps",
            "4",
            "--trainer.default_root_dir",
            str(folder / Path(recipe).stem),
        ]
        done = subprocess.run(
            [*PROJECT.command(), *args],
            cwd=o.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(5, o.left()),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (str(o.root), os.environ.get("PYTHONPATH")))
                ),
            },
        )
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")
        ]
        found[Path(recipe).stem] = "runs" if done.returncode == 0 else (said or ["failed"])[0][:220]
        o.keep(found, str(found))
    return outcome(
        all(x == "runs" for x in found.values()),
        "; ".join(f"{n}: {x}" for n, x in found.items()),
        "all run",
        **found,
    )
