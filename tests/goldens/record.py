#!/usr/bin/env python
"""Record the results of this code: losses of the debug recipes and ids of the bundled model.

See README.md. Only the section ADAPTER uses names of the project; after a rename, that section alone
changes. Names of options, samplers and recorded fields outside of it are the recording's own.
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
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
INPUTS, FIXTURES = HERE / "inputs.npz", HERE / "fixtures"
RECIPES = (
    "image_tokenizer",
    "speech_tokenizer",
    "speech_tokenizer_seanet",
    "stage3",
    "continuous_speech",
)
MORE = {
    "stage3@stored_tokenizers": "stage3_export",
    "continuous_speech@stored_tokenizers": "stage3_export",
}
"""Recipes of the joint model on stored tokenizers, whose codes another CPU finds too."""


# ================================================================================== ADAPTER
# What follows, up to END OF ADAPTER, is all that knows the project's names.


def package_file() -> str:
    import lightning_omni

    return lightning_omni.__file__


def load_model(folder=None, *, hears=False):
    """The bundled model, or one in a folder; `hears`: with speech as features."""
    from lightning_omni.generation.omni import Omni

    if folder is None:
        return Omni.bundled()
    if hears:
        from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder

        return Omni.from_pretrained(
            folder, continuous_speech=SpeechFeatureEncoder(torch.nn.Identity())
        )
    return Omni.from_pretrained(folder)


def ask(
    model,
    task,
    *,
    text=None,
    pixels=None,
    wave=None,
    image=None,
    speech=None,
    mask=None,
    times=None,
    image_hidden=(),
    speech_hidden=(),
    drafts=None,
):
    """A sample whose answer is empty, or as `drafts` give it."""
    from dataclasses import replace

    from PIL import Image

    from lightning_omni.tasks import task_named
    from lightning_omni.types import Part, Sample, Turn

    if image is None and speech is None:
        sample = model.encode_request(
            task,
            text=text,
            image=None if pixels is None else Image.fromarray(pixels),
            speech=wave,
            mask=None if mask is None else Image.fromarray(mask),
            intervals=times,
        )
    else:
        declared = task_named(task)
        part_of = {
            "text": lambda: Part("text", text=text),
            "image": lambda: Part("image", codes=tuple(image), masked=frozenset(image_hidden)),
            "speech": lambda: Part("speech", codes=tuple(speech), masked=frozenset(speech_hidden)),
        }
        asked = tuple(part_of[modality]() for modality in declared.inputs)
        answer = tuple(Part(m) for m in declared.outputs)
        sample = Sample("request", task, (Turn("user", asked), Turn("assistant", answer)), {})
    if drafts:
        parts = list(sample.turns[-1].parts)
        for number, given in drafts.items():
            parts[number] = given_part(model, given)
        sample = replace(sample, turns=(*sample.turns[:-1], Turn("assistant", tuple(parts))))
    return sample


def given_part(model, given):
    """An answer part with what is given of it, from the recording's plain form."""
    from lightning_omni.types import Part

    kind, *rest = given
    if kind == "text":
        return Part("text", text=rest[0])
    if kind in ("image", "speech"):
        return Part(kind, codes=tuple(rest[0]), masked=frozenset(rest[1]))
    raise ValueError(kind)


def make_sampler(spec):
    """A sampler from `(name, {argument: value})`."""
    from importlib import import_module

    name, arguments = spec
    words = {"MaskGIT": "maskgit", "ReMDM": "remdm", "KLASS": "klass"}
    module = words.get(name) or "".join(f"_{c.lower()}" if c.isupper() else c for c in name)[1:]
    return getattr(import_module(f"lightning_omni.samplers.{module}"), name)(**arguments)


REMOVED = {"final_guidance_scale", "length", "length_quantile", "grow"}


def make_config(config):
    """Settings; None if the recording's use an option that was removed."""
    from lightning_omni.generation.config import RENAMED, GenerationConfig

    options = {RENAMED.get(name, name): value for name, value in config.items()}
    if REMOVED & set(options) or isinstance(options.get("guidance_scale"), dict):
        return None
    if "sampler" in options:
        if options["sampler"][0] == "TokenEditing":
            return None
        options["sampler"] = make_sampler(options["sampler"])
    shifts = options.get("timestep_shift")
    if isinstance(shifts, dict):
        del options["timestep_shift"]
        return {m: GenerationConfig(timestep_shift=s, **options) for m, s in shifts.items()}
    return GenerationConfig(**options)


NAMES = {
    "modality": "modality",
    "positions": "positions",
    "masked": "open",
    "blanks": "gaps",
    "ended": "closed",
    "steps": "steps",
    "forwards": "forwards",
    "ids": "ids",
    "history": "trace",
    "candidates": "tried",
}


def old_form(part):
    """A part's record under the names of the recording."""
    out = {old: part[new] for new, old in NAMES.items() if new in part}
    out["grown"] = part["attempts"] - 1
    for one in out.get("tried", []):
        one["gaps"] = one.pop("blanks")
    return out


def answer(model, samples, *, seed, config):
    """Answers as plain dicts: text, transcript, forwards, holes by name, pixels, wave."""
    answers = model.answer(samples, seed=seed, config=make_config(config))
    return [
        {
            "text": a.text,
            "transcript": a.transcript,
            "forwards": a.record["forwards"],
            "holes": {name: old_form(part) for name, part in a.record["parts"].items()},
            "pixels": None if a.image is None else np.asarray(a.image),
            "wave": a.speech,
        }
        for a in answers
    ]


def blended(model, task, given, seed, config, drafts):
    """The same through `generate`, whose media are blended with the user's own."""
    from PIL import Image

    from lightning_omni.generation.request import Infill

    ((kind, *rest),) = drafts.values()
    infill = (
        Infill(image=Image.fromarray(rest[0]), mask=Image.fromarray(rest[1]))
        if kind == "pixels"
        else Infill(speech=rest[0], intervals=rest[1])
    )
    a = model.generate(task, **given, infill=infill, seed=seed, config=make_config(config))
    return {
        "text": a.text,
        "transcript": a.transcript,
        "forwards": a.record["forwards"],
        "holes": {name: old_form(part) for name, part in a.record["parts"].items()},
        "pixels": None if a.image is None else np.asarray(a.image),
        "wave": a.speech,
    }


def encode(model, *, pixels=None, wave=None):
    """Return the codes of a picture or of sound."""
    from PIL import Image

    if pixels is not None:
        sample = model.encode_request("caption", image=Image.fromarray(pixels))
    else:
        sample = model.encode_request("asr", speech=wave)
    return list(sample.turns[0].parts[0].codes)


def prepare_data(folder):
    """The smoke data, at `folder`/data/smoke; the current folder is `folder`."""
    from lightning_omni.cli import main

    assert main(["prep-data", "--preset", "smoke", "--out", "data/smoke", "--cache", "c"]) == 0


KEPT = (
    "EMAWeightAveraging",
    "HealthMonitor",
    "Throughput",
    "ExportTokenizer",
    "ExportOmni",
    "PlainProgress",
)
"""Callbacks that stay; others only look at what a run makes."""


def run_debug_losses(repo, name, tokenizers=None, checkpoint=None):
    """Train a debug recipe in the current folder; logged metrics after every batch.

    In float32, as the recipes' own precision follows the machine. `tokenizers` is a folder of an
    exported model whose tokenizers are taken in place of those just trained; `checkpoint` is resumed.
    """
    import lightning as L

    from lightning_omni.cli import build_cli

    class Recorder(L.Callback):
        def __init__(self):
            self.rows = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            values = {k: float(v) for k, v in trainer.logged_metrics.items()}
            self.rows.append(dict(sorted(values.items())))

    recipe = ["--config", str(Path(repo) / f"recipes/debug/{name}.yaml")]
    plain = ["--trainer.plugins", "null", "--trainer.limit_val_batches", "0"]
    if tokenizers is not None:
        for kind in ("image_tokenizer", "speech_tokenizer"):
            plain += [f"--data.{kind}", str(tokenizers / kind)]
    cli = build_cli([*recipe, *plain], run=False)
    recorder = Recorder()
    trainer = cli.trainer
    trainer.callbacks = [c for c in trainer.callbacks if type(c).__name__ in KEPT] + [recorder]
    trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    return recorder.rows, cli.model.state_dict()


# =========================================================================== END OF ADAPTER

# ----------------------------------------------------------------------------------- INPUTS
CAPTIONS = (
    "a green whale on a pink background",
    "a red car on a white background",
    "three fish on a yellow background",
)
QUESTIONS = (
    "what color is the background",
    "what is in the picture",
    "how many fish are there",
)
FACTS = ("what is two plus three", "what color is the sky", "what is the capital of france")
SAYINGS = ("it is four", "a green whale to the right of a tree", "a red car")


class Inputs:
    def __init__(self):
        self.file = np.load(INPUTS)

    def pixels(self, n):
        return self.file[f"picture{n}"]

    def image(self, n):
        return self.file[f"picture{n}_codes"].tolist()

    def wave(self, name):
        return self.file[name].astype(np.float32) / 32768

    def speech(self, name):
        return self.file[f"{name}_codes"].tolist()

    @property
    def mask(self):
        return self.file["mask"]


# ------------------------------------------------------------------------------------ CASES
TASKS = ("asr", "tts", "t2i", "caption", "vqa", "s2i", "svqa", "sqa", "tqa")


def request(inputs, task, n):
    """Input n of a task, in codes."""
    return {
        "asr": lambda: {"speech": inputs.speech(f"caption{n}")},
        "tts": lambda: {"text": SAYINGS[n]},
        "t2i": lambda: {"text": CAPTIONS[n]},
        "caption": lambda: {"image": inputs.image(n)},
        "vqa": lambda: {"text": QUESTIONS[n], "image": inputs.image(n)},
        "s2i": lambda: {"speech": inputs.speech(f"caption{n}")},
        "svqa": lambda: {"speech": inputs.speech(f"question{n}"), "image": inputs.image(n)},
        "sqa": lambda: {"speech": inputs.speech(f"fact{n}")},
        "tqa": lambda: {"text": FACTS[n]},
    }[task]()


SAMPLERS = (
    ("Ancestral", {}),
    ("Ancestral", {"temperature": 0.5}),
    ("Confidence", {}),
    ("Confidence", {"temperature": 0.7}),
    ("Confidence", {"temperature": 0.7, "top_p": 0.9}),
    ("Confidence", {"temperature": 0.9, "top_k": 5}),
    ("EntropyBounded", {"bound": 1.0}),
    ("EntropyBounded", {"bound": 1.0, "temperature": 0.7}),
    ("EntropyPenalty", {}),
    ("EntropyPenalty", {"temperature": 0.7}),
    ("EntropyPenalty", {"repetition_penalty": 1.2, "position_penalty": 2.0, "free_positions": 2}),
    (
        "EntropyPenalty",
        {
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 5,
            "repetition_penalty": 1.3,
            "position_penalty": 2.0,
        },
    ),
    ("Factor", {"factor": 0.5}),
    ("Factor", {"factor": 0.5, "temperature": 0.7}),
    ("KLASS", {"threshold": 0.3, "divergence": 0.5}),
    ("KLASS", {"threshold": 0.3, "divergence": 0.5, "history": 2, "temperature": 0.7}),
    ("Margin", {}),
    ("Margin", {"temperature": 0.7}),
    ("MaskGIT", {}),
    ("MaskGIT", {"temperature": 0.5, "noise": 2.0}),
    ("ReMDM", {"eta": 0.3}),
    ("ReMDM", {"eta": 0.8, "strategy": "rescale", "start": 0.9, "stop": 0.2}),
    ("ReMDM", {"eta": 0.8, "strategy": "confidence"}),
    ("Threshold", {"threshold": 0.3}),
    ("Threshold", {"threshold": 0.3, "temperature": 0.7}),
    ("TokenEditing", {"sampler": ("Confidence", {}), "threshold": 0.2}),
    ("TokenEditing", {"sampler": ("ReMDM", {"eta": 0.3}), "threshold": 0.2}),
)


def cases(inputs):
    """Every case: (name, task, request, seed, config, drafts)."""

    def case(name, task, n=0, seed=0, drafts=None, **config):
        return name, task, request(inputs, task, n), seed, config, drafts

    for task in TASKS:
        for n in range(3):
            yield case(f"default/{task}/{n}", task, n, seed=n)
        for seed in range(3):
            hot = 1.0 if task in ("tts", "t2i", "s2i") else 3.0
            yield case(f"drawn/{task}/{seed}", task, 0, seed=seed, temperature=hot)
        yield case(f"guidance0/{task}", task, 1, guidance_scale=0.0)
        yield case(f"guidance1/{task}", task, 1, guidance_scale=1.0)
        yield case(f"guidance_faded/{task}", task, 2, guidance_scale=2.0, final_guidance_scale=0.5)
        yield case(f"blocks/{task}", task, 1, block_size=8)
        yield case(f"refreshed/{task}", task, 1, refresh_every=4)
        slow = {"sampler": ("Confidence", {}), "num_steps": 9, "refresh_every": 4}
        yield case(f"refreshed_slow/{task}", task, 2, **slow)
        yield case(f"refreshed_guided/{task}", task, 2, refresh_every=4, guidance_scale=1.0)
        yield case(f"fast/{task}", task, 2, quality="fast")
        yield case(f"best/{task}", task, 2, quality="best")
        yield case(f"steps/{task}", task, 2, num_steps=5)
        yield case(f"steps_per_token/{task}", task, 2, steps_per_token=0.25, temperature=0.8)
        if task not in ("t2i", "s2i"):
            yield case(f"past_end/{task}", task, 0, stop_at_end=False, num_steps=8)
            yield case(f"longest/{task}", task, 0, length="longest")
            yield case(f"predicted/{task}", task, 0, length="predicted")
    yield case("guidance_by_modality/vqa", "vqa", 0, guidance_scale={"image": 1.0, "text": 0.5})
    yield case("guidance_by_modality/svqa", "svqa", 0, guidance_scale={"speech": 1.5})
    yield case(
        "guidance_by_modality_faded/vqa",
        *("vqa", 0),
        guidance_scale={"image": 2.0},
        final_guidance_scale=0.0,
    )
    for task in ("caption", "t2i", "svqa"):
        yield case(f"bfloat16/{task}", task, 0, precision="bfloat16")
    yield case("shift/t2i", "t2i", 1, shift=3.0)
    yield case("shift_by_modality/svqa", "svqa", 1, shift={"text": 0.33, "speech": 2.0})
    for task in ("caption", "tqa", "asr"):
        yield case(f"grown/{task}", task, 1, grow={"start": 0.3})
    yield case("grown_blocks/caption", "caption", 2, grow={"start": 0.5}, block_size=4)
    yield case("trace/t2i", "t2i", 1, trace=True, num_steps=5, guidance_scale=2.0)
    yield case("trace/sqa", "sqa", 1, trace=True)
    yield case("trace/remdm", "t2i", 2, trace=True, num_steps=6, sampler=("ReMDM", {"eta": 0.5}))
    for name, arguments in SAMPLERS:
        words = ",".join(f"{k}={v[0] if isinstance(v, tuple) else v}" for k, v in arguments.items())
        spec = (name, arguments)
        yield case(f"sampler/{name}({words})/t2i", "t2i", 0, seed=3, num_steps=6, sampler=spec)
        yield case(f"sampler/{name}({words})/sqa", "sqa", 0, seed=4, num_steps=6, sampler=spec)
        yield case(
            f"sampler/{name}({words})/blocks",
            *("caption", 1),
            seed=5,
            num_steps=6,
            block_size=4,
            sampler=spec,
        )

    # drafts
    for n, text in enumerate(
        ("a ___ on a ___ background", "a ___{2} on a pink ___", "___ background", "a red ___")
    ):
        yield case(f"gaps/caption/{n}", "caption", n % 3, drafts={0: ("text", text)})
        yield case(
            f"gaps_drawn/caption/{n}", "caption", n % 3, 7, {0: ("text", text)}, temperature=1.0
        )
    yield case("gaps/svqa", "svqa", 0, drafts={0: ("text", "it is ___")})
    places = [r * 8 + c for r in range(2, 6) for c in range(2, 6)]
    region = {0: ("image", inputs.image(1), places)}
    yield case("region/t2i", "t2i", 0, drafts=region)
    yield case("region_drawn/t2i", "t2i", 0, seed=2, drafts=region, temperature=1.0)
    yield case("region_blocks/t2i", "t2i", 0, drafts=region, block_size=4, refresh_every=4)
    yield case("region/s2i", "s2i", 0, drafts=region)
    said = inputs.speech("caption0")
    interval = {0: ("speech", said, list(range(10, 25)))}
    yield case("interval/tts", "tts", 1, drafts=interval)
    yield case("interval_drawn/tts", "tts", 1, seed=2, drafts=interval, temperature=1.0)
    yield case("interval/svqa", "svqa", 0, drafts={1: ("speech", said, list(range(5, 12)))})

    # requests of which something is hidden
    def hidden(name, task, n, seed=0, *, given, **config):
        return name, task, {**request(inputs, task, n), **given}, seed, config, None

    yield hidden("hidden_image/caption", "caption", 0, given={"image_hidden": places})
    yield hidden("hidden_image/vqa", "vqa", 1, given={"image_hidden": places})
    yield hidden("hidden_image/svqa", "svqa", 2, given={"image_hidden": places})
    few = list(range(8, 16))
    yield hidden("hidden_speech/asr", "asr", 0, given={"speech_hidden": few})
    yield hidden("hidden_speech/s2i", "s2i", 1, given={"speech_hidden": few})
    yield hidden(
        "hidden_speech/sqa", "sqa", 2, seed=1, given={"speech_hidden": few}, temperature=1.0
    )

    # through the tokenizers
    pixels, wave = inputs.pixels(0), inputs.wave("caption0")
    yield "media/caption", "caption", {"pixels": pixels}, 0, {}, None
    yield "media/asr", "asr", {"wave": wave}, 0, {}, None
    yield "media_hidden/caption", "caption", {"pixels": pixels, "mask": inputs.mask}, 0, {}, None
    yield "media_hidden/asr", "asr", {"wave": wave, "times": [(0.2, 0.5)]}, 0, {}, None
    masked = {0: ("pixels", inputs.pixels(1), inputs.mask)}
    yield "media_region/t2i", "t2i", {"text": CAPTIONS[1]}, 0, {}, masked
    cut = {0: ("wave", wave, [(0.3, 0.7), (1.0, 1.2)])}
    yield "media_interval/tts", "tts", {"text": CAPTIONS[0]}, 0, {}, cut


def digest(array):
    """Hash and a few numbers of a picture or sound."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "shape": list(array.shape),
        "mean": float(array.astype(np.float64).mean()) if array.size else 0.0,
        "std": float(array.astype(np.float64).std()) if array.size else 0.0,
    }


def stored(plain):
    """An answer as it is written down."""
    pixels, wave = plain.pop("pixels"), plain.pop("wave")
    return {**plain, "image": digest(pixels), "speech": digest(wave)}


def record_ids(only=None):
    """Ids of every case that the code still has, or of those whose name begins with one of `only`."""
    model, inputs, out = load_model(), Inputs(), {}

    def wanted(name):
        return only is None or name.startswith(tuple(only))

    for name, task, given, seed, config, drafts in cases(inputs):
        if not wanted(name) or make_config(config) is None:
            continue
        if drafts and next(iter(drafts.values()))[0] in ("pixels", "wave"):
            plain = blended(model, task, given, seed, config, drafts)
        else:
            sample = ask(model, task, **given, drafts=drafts)
            (plain,) = answer(model, [sample], seed=seed, config=config)
            if drafts and next(iter(drafts.values()))[0] == "text":
                plain = {**plain, "text": plain["text"]}
        out[name] = {"task": task, "seed": seed, **stored(plain)}

    for name, seed, config in (
        ("batch/default", 3, {}),
        ("batch/drawn", 3, {"temperature": 0.8, "num_steps": 6}),
        ("batch/blocks", 5, {"temperature": 0.8, "num_steps": 12, "block_size": 8}),
        (
            "batch/remdm",
            5,
            {"sampler": ("ReMDM", {"eta": 0.5, "strategy": "rescale"}), "num_steps": 6},
        ),
    ):
        if not wanted(name):
            continue
        tasks = (("t2i", 1), ("tts", 1), ("asr", 0), ("svqa", 0), ("vqa", 2))
        asked = [ask(model, task, **request(inputs, task, n)) for task, n in tasks]
        together = answer(model, asked, seed=seed, config=config)
        for i, sample in enumerate(asked):
            (alone,) = answer(model, [sample], seed=seed + i, config=config)
            same = alone["holes"] == together[i]["holes"]
            out[f"{name}/{i}"] = {
                "task": tasks[i][0],
                "seed": seed + i,
                **stored(together[i]),
                "as_alone": same,
            }

    for n in range(3):
        if wanted("encode"):
            out[f"encode/picture{n}"] = {"codes": encode(model, pixels=inputs.pixels(n))}
            for kind in ("caption", "question", "fact"):
                out[f"encode/{kind}{n}"] = {"codes": encode(model, wave=inputs.wave(f"{kind}{n}"))}

    if not wanted("old"):
        return out
    model = load_model(FIXTURES / "stage3_export")  # in the old format, with a length head
    for name, task, config in (
        ("default/svqa", "svqa", {}),
        ("drawn/t2i", "t2i", {"temperature": 1.0}),
    ):
        given = debug_request(task)
        (plain,) = answer(model, [ask(model, task, **given)], seed=0, config=config)
        out[f"old_export/{name}"] = {"task": task, "seed": 0, **stored(plain)}
    with hearing_export() as heard:
        model = load_model(heard, hears=True)
        for task in ("asr", "s2i", "sqa"):
            sample = ask(model, task, wave=inputs.wave("caption0"))
            (plain,) = answer(model, [sample], seed=0, config={"num_steps": 4})
            out[f"old_hearing_export/{task}"] = {"task": task, "seed": 0, **stored(plain)}
    return out


@contextmanager
def hearing_export():
    """The fixture that hears features, beside the tokenizers of the other, which are the same."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "export"
        shutil.copytree(FIXTURES / "continuous_speech_export", whole)
        for kind in ("image_tokenizer", "speech_tokenizer"):
            shutil.copytree(FIXTURES / "stage3_export" / kind, whole / kind)
        yield whole


def debug_request(task):
    """Codes that a debug model knows: 64 of 64 for a picture, 20 of 32 for speech."""
    image, speech = [(7 * i + 3) % 64 for i in range(64)], [(5 * i + 1) % 32 for i in range(20)]
    return {
        "caption": {"image": image},
        "sqa": {"speech": speech},
        "svqa": {"speech": speech, "image": image},
        "t2i": {"text": "a red cat"},
    }[task]


# ----------------------------------------------------------------------------------- LOSSES
def record_losses(repo, names=(*RECIPES, *MORE)):
    """Record the metrics of every batch of debug recipes, trained one after another."""
    before, out = Path.cwd(), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            prepare_data(folder)
            for name in names:
                stored = FIXTURES / MORE[name] if name in MORE else None
                rows, state = run_debug_losses(repo, name.partition("@")[0], stored)
                digests = sorted(
                    hashlib.sha256(v.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:10]
                    for v in state.values()
                )
                out[name] = {"batches": rows, "weights": digests}
        finally:
            os.chdir(before)
    return out


# ------------------------------------------------------------------------------------- MAIN
def write(plain, path):
    text = json.dumps(plain, indent=None if path.suffix == ".gz" else 1) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("ids", "losses"))
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--repo", default=None, help="where recipes/debug is; default: the package's"
    )
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    start = time.perf_counter()
    repo = args.repo or Path(package_file()).resolve().parents[1]
    print("package:", package_file(), "threads:", threads, file=sys.stderr)
    made = record_ids(args.only) if args.what == "ids" else record_losses(repo)
    about = {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }
    plain = {"about": about, args.what: made}
    write(plain, args.out)
    print(f"{args.what}: {len(made)} cases, {time.perf_counter() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
