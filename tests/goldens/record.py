"""Record what the code computes: tokens of the bundled model and losses of the debug recipes.

python tests/goldens/record.py ids --out ids.json.gz        # 45 s on one CPU core
python tests/goldens/record.py losses --out losses.json     # 30 s

Each checkout records its own code. Run from anywhere; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LIGHTNING_OMNI_TRACEBACK", "1")
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightning as L
import numpy as np
import torch
from cases import (
    BATCH,
    BATCHES,
    FIXTURES,
    OLD_EXPORT,
    Case,
    Inputs,
    cases,
    debug_request,
)
from PIL import Image

import lightning_omni
from lightning_omni.cli import build_cli, main
from lightning_omni.generation.config import Configs, config_from_dict
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.generation.request import Infill
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.types import Part, Sample, Turn

REPO = Path(__file__).resolve().parents[2]
RECIPES = {
    "image_tokenizer": (None, None),
    "speech_tokenizer": (None, None),
    "speech_tokenizer_seanet": (None, None),
    "stage3": (None, None),
    "continuous_speech": (None, None),
    "stage3@stored_tokenizers": ("stage3_export", None),
    "continuous_speech@stored_tokenizers": ("stage3_export", None),
    "stage3@resumed": ("stage3_export", "stage3_step4.ckpt"),
    "speech_tokenizer@resumed": (None, "speech_tokenizer_step6.ckpt"),
}
"""Debug recipe: the fixture whose tokenizers replace those just trained, and the checkpoint that
is resumed. Another kind of CPU trains other tokenizers, whose codes then differ."""
KEPT = (
    "EMAWeightAveraging",
    "EMA",
    "HealthMonitor",
    "Throughput",
    "ExportTokenizer",
    "ExportOmni",
    "PlainProgress",
)
"""Callbacks that stay in the recorded runs; others only look at what a run makes."""


def wants(only: Sequence[str] | None, name: str) -> bool:
    """Return whether a case is to be recorded: all, or those whose name begins so."""
    return only is None or name.startswith(tuple(only))


# ------------------------------------------------------------------------------------ tokens
def record_ids(only: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what was generated in every case, by name.

    Args:
        only: beginnings of the names of the cases to record; None records all.
    """
    model, inputs, out = Omni.bundled(), Inputs(), {}
    for case in cases(inputs):
        if wants(only, case.name):
            out[case.name] = plain_answer(case.task, case.seed, answer(model, case))
    out |= _record_batches(model, inputs, only)
    if wants(only, "encode/"):
        out |= _record_codes(model, inputs)
    if wants(only, "old_export/"):
        old = Omni.from_pretrained(FIXTURES / "stage3_export")
        for task, config in OLD_EXPORT:
            case = Case(f"old_export/{task}", task, debug_request(task), 0, config)
            out[case.name] = plain_answer(task, 0, answer(old, case))
    if wants(only, "old_continuous_export/"):
        with continuous_export() as folder:
            encoder = SpeechFeatureEncoder(torch.nn.Identity())
            old = Omni.from_pretrained(folder, continuous_speech=encoder)
            for task in ("asr", "s2i", "sqa"):
                request, config = {"wave": inputs.wave("caption0")}, {"num_steps": 4}
                case = Case(f"old_continuous_export/{task}", task, request, 0, config)
                out[case.name] = plain_answer(task, 0, answer(old, case))
    return out


def answer(model: Omni, case: Case) -> Answer:
    """Return the answer of a case."""
    if case.blend is not None:  # blended with the user's own medium
        given = {k: picture(v) if k != "speech" else v for k, v in case.blend.items()}
        config = make_config(case.config)
        return model.generate(
            case.task, **case.request, infill=Infill(**given), seed=case.seed, config=config
        )
    sample = encode(model, case)
    return model.answer([sample], seed=case.seed, config=make_config(case.config))[0]


def encode(model: Omni, case: Case) -> Sample:
    """Return the sample of a case."""
    request = case.request
    if "pixels" in request or "wave" in request:
        return model.encode_request(
            case.task,
            image=picture(request.get("pixels")),
            speech=request.get("wave"),
            mask=picture(request.get("mask")),
            intervals=request.get("intervals"),
        )
    declared = task_named(case.task)
    asked = [_part(modality, request) for modality in declared.inputs]
    parts = [_given(kind, case.infill.get(n)) for n, kind in enumerate(declared.outputs)]
    return Sample(
        "request", case.task, (Turn("user", tuple(asked)), Turn("assistant", tuple(parts))), {}
    )


def _part(modality: str, request: dict[str, Any]) -> Part:
    if modality == "text":
        return Part("text", text=request["text"])
    masked = frozenset(request.get(f"masked_{modality}", ()))
    return Part(modality, codes=tuple(request[modality]), masked=masked)


def _given(modality: str, given: tuple[Any, ...] | None) -> Part:
    """Return an answer part with what is given of it."""
    if given is None:
        return Part(modality)
    content, masked = given
    if modality == "text":
        return Part("text", text=content)
    return Part(modality, codes=tuple(content), masked=frozenset(masked))


def picture(value: Any) -> Any:
    """Return a picture made of an array; other values stay."""
    return Image.fromarray(value) if isinstance(value, np.ndarray) else value


def make_config(plain: dict[str, Any]) -> Configs:
    """Return the settings of a case."""
    if "by_modality" in plain:
        return {name: config_from_dict(config) for name, config in plain["by_modality"].items()}
    return config_from_dict(plain)


def plain_answer(task: str, seed: int, given: Answer) -> dict[str, Any]:
    """Return an answer as it is recorded: all tokens, and digests of media."""
    return {
        "task": task,
        "seed": seed,
        "text": given.text,
        "transcript": given.transcript,
        "forwards": given.record["forwards"],
        "parts": {name: _plain_part(part) for name, part in given.record["parts"].items()},
        "image": digest(None if given.image is None else np.asarray(given.image)),
        "speech": digest(given.speech),
    }


def _plain_part(part: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a part; passes of several attempts are counted in the answer's sum."""
    is_one = part["attempts"] == 1
    return {name: value for name, value in part.items() if is_one or name != "forwards"}


def digest(array: np.ndarray | None) -> dict[str, Any] | None:
    """Return the hash and a few numbers of a picture or sound."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "shape": list(array.shape),
        "mean": float(array.astype(np.float64).mean()) if array.size else 0.0,
        "std": float(array.astype(np.float64).std()) if array.size else 0.0,
    }


def _record_batches(
    model: Omni, inputs: Inputs, only: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Record batches of five tasks, and whether each answer is the one that it has alone."""
    samples = [encode(model, Case("batch", task, inputs.request(task, n))) for task, n in BATCH]
    out = {}
    for name, seed, plain in BATCHES:
        if not wants(only, f"{name}/"):
            continue
        config = make_config(plain)
        together = model.answer(samples, seed=seed, config=config)
        for i, (sample, one) in enumerate(zip(samples, together, strict=True)):
            (alone,) = model.answer([sample], seed=seed + i, config=config)
            recorded = plain_answer(BATCH[i][0], seed + i, one)
            own = plain_answer(BATCH[i][0], seed + i, alone)
            out[f"{name}/{i}"] = {**recorded, "as_alone": own["parts"] == recorded["parts"]}
    return out


def _record_codes(model: Omni, inputs: Inputs) -> dict[str, dict[str, list[int]]]:
    out = {}
    for n in range(3):
        media = {f"picture{n}": ("caption", {"pixels": inputs.pixels(n)})}
        for kind in ("caption", "question", "fact"):
            media[f"{kind}{n}"] = ("asr", {"wave": inputs.wave(f"{kind}{n}")})
        for name, (task, medium) in media.items():
            (part,) = encode(model, Case(name, task, medium)).turns[0].parts
            assert part.codes is not None
            out[f"encode/{name}"] = {"codes": list(part.codes)}
    return out


@contextmanager
def continuous_export() -> Iterator[Path]:
    """Yield the export with continuous speech, completed by the tokenizers of the other."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "export"
        shutil.copytree(FIXTURES / "continuous_speech_export", whole)
        for kind in ("image_tokenizer", "speech_tokenizer"):
            shutil.copytree(FIXTURES / "stage3_export" / kind, whole / kind)
        yield whole


# ------------------------------------------------------------------------------------ losses
class Recorder(L.Callback):
    """Notes all logged metrics after every batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        values = {name: float(value) for name, value in trainer.logged_metrics.items()}
        self.rows.append(dict(sorted(values.items())))


def record_losses(only: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the metrics of every batch of the debug recipes, trained one after another.

    Args:
        only: names of the runs to record; None records all.
    """
    out = {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        prep = ["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "cache"]
        assert main(prep) == 0
        for name, fixtures in RECIPES.items():
            if only is None or name in only:
                tokenizers, checkpoint = (f and FIXTURES / f for f in fixtures)
                out[name] = _train(name.partition("@")[0], tokenizers, checkpoint)
    return out


def _train(recipe: str, tokenizers: Path | None, checkpoint: Path | None) -> dict[str, Any]:
    """Train a debug recipe in float32, as its own precision follows the machine."""
    args = ["--config", str(REPO / f"recipes/debug/{recipe}.yaml")]
    args += ["--trainer.plugins", "null", "--trainer.limit_val_batches", "0"]
    if tokenizers is not None:
        for kind in ("image_tokenizer", "speech_tokenizer"):
            args += [f"--data.{kind}", str(tokenizers / kind)]
    cli = build_cli(args, run=False)
    recorder, trainer = Recorder(), cli.trainer
    kept = [callback for callback in trainer.callbacks if type(callback).__name__ in KEPT]
    trainer.callbacks = [*kept, recorder]
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    weights = (value.detach().cpu().contiguous() for value in cli.model.state_dict().values())
    digests = sorted(hashlib.sha256(w.numpy().tobytes()).hexdigest()[:10] for w in weights)
    return {"batches": recorder.rows, "weights": digests}


# -------------------------------------------------------------------------------------- main
def write(plain: dict[str, Any], path: Path) -> None:
    """Write a recording; the same values are the same bytes."""
    text = json.dumps(plain, indent=None if path.suffix == ".gz" else 1) + "\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def record() -> None:
    """Record what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("ids", "losses"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="beginnings of names of cases, or runs")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.stderr.write(f"recording {lightning_omni.__file__}\n")
    make = record_ids if args.what == "ids" else record_losses
    about = {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    out = args.out.resolve()
    write({"about": about, args.what: make(args.only)}, out)


if __name__ == "__main__":
    record()
