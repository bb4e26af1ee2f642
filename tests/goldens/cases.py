"""Requests and settings of the recorded answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"

TASKS = ("asr", "tts", "t2i", "caption", "vqa", "s2i", "svqa", "sqa", "tqa")
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
BATCH = (("t2i", 1), ("tts", 1), ("asr", 0), ("svqa", 0), ("vqa", 2))
"""Task and input of each request of a batch."""
REGION = [row * 8 + column for row in range(2, 6) for column in range(2, 6)]
BLANKS = ("a ___ on a ___ background", "a ___{2} on a pink ___", "___ background", "a red ___")

SAMPLERS: tuple[tuple[str, dict[str, Any]], ...] = (
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
)
_MODULES = {
    "EntropyBounded": "entropy_bounded",
    "EntropyPenalty": "entropy_penalty",
}


def sampler(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a sampler as presets store it."""
    module = _MODULES.get(name, name.lower())
    path = f"lightning_omni.samplers.{module}.{name}"
    return {"class_path": path, "init_args": arguments}


@dataclass
class Case:
    """One recorded answer.

    Attributes:
        name: group, task and number.
        task: name of the task.
        request: arguments of `record.encode`: media, or codes with what is masked of them.
        seed: seed of the answer.
        config: settings of the generation as presets store them; `by_modality` holds several.
        infill: answer parts that are given in part, by index: text or codes, and what is masked.
        blend: an `Infill` in place of `infill`, as its arguments.
    """

    name: str
    task: str
    request: dict[str, Any]
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    infill: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    blend: dict[str, Any] | None = None


class Inputs:
    """Pictures and sounds that the bundled model made, and their codes."""

    def __init__(self) -> None:
        self.file = np.load(HERE / "inputs.npz")
        self.mask = self.file["mask"]

    def pixels(self, n: int) -> np.ndarray:
        return self.file[f"picture{n}"]

    def image(self, n: int) -> list[int]:
        return self.file[f"picture{n}_codes"].tolist()

    def wave(self, name: str) -> np.ndarray:
        return self.file[name].astype(np.float32) / 32768

    def speech(self, name: str) -> list[int]:
        return self.file[f"{name}_codes"].tolist()

    def request(self, task: str, n: int) -> dict[str, Any]:
        """Return input n of a task, media as codes."""
        return {
            "asr": lambda: {"speech": self.speech(f"caption{n}")},
            "tts": lambda: {"text": SAYINGS[n]},
            "t2i": lambda: {"text": CAPTIONS[n]},
            "caption": lambda: {"image": self.image(n)},
            "vqa": lambda: {"text": QUESTIONS[n], "image": self.image(n)},
            "s2i": lambda: {"speech": self.speech(f"caption{n}")},
            "svqa": lambda: {"speech": self.speech(f"question{n}"), "image": self.image(n)},
            "sqa": lambda: {"speech": self.speech(f"fact{n}")},
            "tqa": lambda: {"text": FACTS[n]},
        }[task]()


def cases(inputs: Inputs) -> Iterator[Case]:
    """Yield every case of the bundled model that is answered alone."""
    for make in (_by_task, _by_option, _by_sampler, _infilling, _masked_requests, _media):
        yield from make(inputs)


def _by_task(inputs: Inputs) -> Iterator[Case]:
    slow = {"sampler": sampler("Confidence"), "num_steps": 9, "cache_interval": 4}
    for task in TASKS:

        def case(name, n, seed=0, task=task, **config):
            group, _, number = name.partition("/")
            whole = "/".join(filter(None, (group, task, number)))
            return Case(whole, task, inputs.request(task, n), seed, config)

        hot = 1.0 if task in ("tts", "t2i", "s2i") else 3.0
        for n in range(3):
            yield case(f"default/{n}", n, seed=n)
            yield case(f"drawn/{n}", 0, seed=n, temperature=hot)
        yield case("guidance0", 1, guidance_scale=0.0)
        yield case("guidance1", 1, guidance_scale=1.0)
        yield case("blocks", 1, block_size=8)
        yield case("cached", 1, cache_interval=4)
        yield case("cached_slow", 2, **slow)
        yield case("cached_guided", 2, cache_interval=4, guidance_scale=1.0)
        yield case("fast", 2, preset="fast")
        yield case("best", 2, preset="best")
        yield case("steps", 2, num_steps=5)
        yield case("steps_per_token", 2, steps_per_token=0.25, temperature=0.8)
        if task not in ("t2i", "s2i"):
            yield case("past_end", 0, stop_at_end=False, num_steps=8)


def _by_option(inputs: Inputs) -> Iterator[Case]:
    def case(name, n, **config):
        task = name.partition("/")[2]
        return Case(name, task, inputs.request(task, n), 0, config)

    for task in ("caption", "t2i", "svqa"):
        yield case(f"bfloat16/{task}", 0, precision="bfloat16")
    yield case("timestep_shift/t2i", 1, timestep_shift=3.0)
    shifts = {"text": {"timestep_shift": 0.33}, "speech": {"timestep_shift": 2.0}}
    yield case("timestep_shift_by_modality/svqa", 1, by_modality=shifts)
    yield case("history/t2i", 1, history=True, num_steps=5, guidance_scale=2.0)
    yield case("history/sqa", 1, history=True)
    remdm = {"history": True, "num_steps": 6, "sampler": sampler("ReMDM", eta=0.5)}
    yield Case("history/remdm", "t2i", inputs.request("t2i", 2), 0, remdm)


def _by_sampler(inputs: Inputs) -> Iterator[Case]:
    for name, arguments in SAMPLERS:
        config = {"num_steps": 6, "sampler": sampler(name, **arguments)}
        words = ",".join(f"{key}={value}" for key, value in arguments.items())
        for number, (task, n, more) in enumerate(
            (("t2i", 0, {}), ("sqa", 0, {}), ("caption", 1, {"block_size": 4}))
        ):
            kind = "blocks" if more else task
            request = inputs.request(task, n)
            whole = f"sampler/{name}({words})/{kind}"
            yield Case(whole, task, request, 3 + number, {**config, **more})


def _infilling(inputs: Inputs) -> Iterator[Case]:
    def case(name, n, given, seed=0, **config):
        task = name.split("/")[1]
        return Case(name, task, inputs.request(task, n), seed, config, given)

    for n, text in enumerate(BLANKS):
        blanks = {0: (text, ())}
        yield case(f"blanks/caption/{n}", n % 3, blanks)
        yield case(f"blanks_drawn/caption/{n}", n % 3, blanks, 7, temperature=1.0)
    yield case("blanks/svqa", 0, {0: ("it is ___", ())})
    region = {0: (inputs.image(1), REGION)}
    yield case("region/t2i", 0, region)
    yield case("region_drawn/t2i", 0, region, 2, temperature=1.0)
    yield case("region_blocks/t2i", 0, region, block_size=4, cache_interval=4)
    yield case("region/s2i", 0, region)
    said = inputs.speech("caption0")
    interval = {0: (said, range(10, 25))}
    yield case("interval/tts", 1, interval)
    yield case("interval_drawn/tts", 1, interval, 2, temperature=1.0)
    yield case("interval/svqa", 0, {1: (said, range(5, 12))})


def _masked_requests(inputs: Inputs) -> Iterator[Case]:
    for n, task in enumerate(("caption", "vqa", "svqa")):
        request = {**inputs.request(task, n), "masked_image": REGION}
        yield Case(f"masked_image/{task}", task, request)
    for n, task in enumerate(("asr", "s2i", "sqa")):
        request = {**inputs.request(task, n), "masked_speech": list(range(8, 16))}
        drawn = {"seed": 1, "config": {"temperature": 1.0}} if task == "sqa" else {}
        yield Case(f"masked_speech/{task}", task, request, **drawn)


def _media(inputs: Inputs) -> Iterator[Case]:
    pixels, wave, mask = inputs.pixels(0), inputs.wave("caption0"), inputs.mask
    yield Case("media/caption", "caption", {"pixels": pixels})
    yield Case("media/asr", "asr", {"wave": wave})
    yield Case("media_masked/caption", "caption", {"pixels": pixels, "mask": mask})
    yield Case("media_masked/asr", "asr", {"wave": wave, "intervals": [(0.2, 0.5)]})
    blend = {"image": inputs.pixels(1), "mask": mask}
    yield Case("media_region/t2i", "t2i", {"text": CAPTIONS[1]}, blend=blend)
    blend = {"speech": wave, "intervals": [(0.3, 0.7), (1.0, 1.2)]}
    yield Case("media_interval/tts", "tts", {"text": CAPTIONS[0]}, blend=blend)


BATCHES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("batch/default", 3, {}),
    ("batch/drawn", 3, {"temperature": 0.8, "num_steps": 6}),
    ("batch/blocks", 5, {"temperature": 0.8, "num_steps": 12, "block_size": 8}),
    (
        "batch/remdm",
        5,
        {"sampler": sampler("ReMDM", eta=0.5, strategy="rescale"), "num_steps": 6},
    ),
)
"""Name, seed of the first answer, and settings of the batches."""


def debug_request(task: str) -> dict[str, Any]:
    """Return codes that a debug model knows: 64 of 64 for a picture, 20 of 32 for speech."""
    image, speech = [(7 * i + 3) % 64 for i in range(64)], [(5 * i + 1) % 32 for i in range(20)]
    return {
        "svqa": {"speech": speech, "image": image},
        "t2i": {"text": "a red cat"},
    }[task]


OLD_EXPORT: tuple[tuple[str, dict[str, Any]], ...] = (("svqa", {}), ("t2i", {"temperature": 1.0}))
"""Task and settings of the answers of the old export."""
