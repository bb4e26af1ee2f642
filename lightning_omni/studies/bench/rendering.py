"""Render and pack samples of the sizes and the mixture of the paper, in CPU seconds.

Source of sizes and shares: Omni-Diffusion, arXiv:2603.06577, table 4 and appendix A: pictures of
512 pixels in requests (1,024 codes) and of 256 in answers (256 codes), clips of 5 to 20 s.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from lightning_omni.data.make_template import make_template
from lightning_omni.data.mixture import choose_next_task
from lightning_omni.data.packing import pack_stream
from lightning_omni.data.shards import parse_sample
from lightning_omni.data.template import Template
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer
from lightning_omni.types import Part, Sample, TokenSequence, Turn
from lightning_omni.vocab import Vocab

SHARES = {
    "t2i": 4.0,
    "tqa": 0.67,
    "asr": 0.487,
    "tts": 1.839,
    "vqa": 2.8,
    "sqa": 0.43,
    "s2i": 0.03,
    "svqa": 0.03,
}
"""Millions of samples of stage 3."""
SPANS = {"speech": 16_384, "image": 8_192}
_TAIL_PADS = {"text": 16, "speech": 16}
_COLUMNS, _REQUEST_COLUMNS = 16, 32
_CLIP = 60, 250
_WORDS = 5, 100
_FEW_WORDS = 3, 30
_VOICES = 100
_KEPT = 50
_TEXT = """
the of and a to in is you that it he was for on are as with his they at be this have from or one had
by word but not what all were we when your can said there use an each which she do how their if will
"""
Files = dict[str, bytes]


def make_random_files(task: str, rng: Random) -> Files:
    """Return the files of a random sample of a task, as a code shard holds them."""
    named = task_named(task)
    few = "image" in named.outputs or "image" in named.inputs

    def make_part(modality: str, *, is_answer: bool) -> Part:
        if modality == "text":
            words = rng.choices(_TEXT.split(), k=rng.randint(*(_FEW_WORDS if few else _WORDS)))
            return Part("text", text=" ".join(words))
        length = rng.randint(*_CLIP)
        if modality == "image":
            length = (_COLUMNS if is_answer else _REQUEST_COLUMNS) ** 2
        return Part(modality, codes=tuple(rng.choices(range(SPANS[modality]), k=length)))

    turns = (
        Turn("user", tuple(make_part(m, is_answer=False) for m in named.inputs)),
        Turn("assistant", tuple(make_part(m, is_answer=True) for m in named.outputs)),
    )
    sample = Sample("", task, turns, {"voice": f"voice-{rng.randrange(_VOICES)}"})
    return {"json": json.dumps(sample.to_json(), separators=(",", ":")).encode()}


def make_paper_template(text_ranks: str | Path = DEFAULT_RANKS) -> Template:
    """Return the released template with pictures of the paper's sizes."""
    text = TextTokenizer(text_ranks)
    return make_template(
        Vocab(text.size, SPANS, "released"),
        text,
        image_columns=_COLUMNS,
        codebooks=1,
        max_tail_pads=_TAIL_PADS,
        request_image_columns=_REQUEST_COLUMNS,
    )


def make_paper_files(*, seed: int) -> dict[str, list[Files]]:
    """Return the files of random samples of each task of `SHARES`."""
    rng = Random(seed)
    return {task: [make_random_files(task, rng) for _ in range(_KEPT)] for task in SHARES}


def measure_rendering(
    template: Template,
    files: dict[str, list[Files]],
    shares: dict[str, float],
    *,
    rows: int = 1,
    row_length: int = 3072,
    batches: int,
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """Return the median tokens of samples per CPU second, with and without parsing the samples.

    Args:
        template: Template to render with.
        files: Files of the samples of each task, read over and over.
        shares: Share of each task.
        rows: Rows per batch.
        row_length: Tokens per row.
        batches: Batches per measurement.
        repeats: Measurements.
        seed: Seed of answer parts and tail pads.
    """
    memory = Path("memory")
    parsed = {
        task: [parse_sample(str(i), f, memory) for i, f in enumerate(kept)]
        for task, kept in files.items()
    }

    def sequences(*, parses: bool) -> Iterator[tuple[int, TokenSequence]]:
        served = dict.fromkeys(shares, 0)
        for index in count():
            task = choose_next_task(shares, served)
            position = index % len(parsed[task])
            sample = parsed[task][position]
            if parses:
                sample = parse_sample(sample.key, files[task][position], memory)
            yield index, template.render(sample, rng=Random(f"{seed}-{index}"))

    def tokens_per_cpu_s(*, parses: bool) -> float:
        packed = pack_stream(
            sequences(parses=parses),
            rows=rows,
            row_length=row_length,
            pad_token_id=template.vocab.pad_token_id,
        )
        next(packed)
        start = time.process_time()
        used = sum(count_used_tokens(batch) for batch in islice(packed, batches))
        return used / (time.process_time() - start)

    speeds = [[tokens_per_cpu_s(parses=p) for p in (False, True)] for _ in range(repeats)]
    rendered, parsed_too = (statistics.median(column) for column in zip(*speeds, strict=True))
    return {
        "rows": rows,
        "row_length": row_length,
        "batches": batches,
        "tokens_per_cpu_s": rendered,
        "parsed_tokens_per_cpu_s": parsed_too,
    }


def count_used_tokens(batch: Any) -> int:
    """Return the number of tokens of a batch that belong to a sample."""
    held = zip(batch.lengths, batch.host_tasks, strict=True)
    return sum(length for length, task in held if task >= 0)
