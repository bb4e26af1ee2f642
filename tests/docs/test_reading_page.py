"""The page that walks through the code names functions that exist, in the order of their calls."""

import ast
import inspect
import json
import re
import sys
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from small_models import SMALL
from tar_files import write_tar

from lightning_omni.data.lanes import LaneStream
from lightning_omni.data.mixture import Mixture, PackedLanes
from lightning_omni.data.template import Template
from lightning_omni.diffusion.forward_process import ForwardProcess
from lightning_omni.diffusion.schedule import Linear
from lightning_omni.generation.command import generate
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.entropy_penalty import EntropyPenalty
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "read_this_code_in_twenty_minutes.md").read_text()
HEADING = re.compile(r"^### (\d+)\. `([\w/.]+)` `([\w.]+)`$", re.M)
Hop = tuple[str, str]
"""A file, and the qualified name of a function in it."""


def walk(title: str) -> list[tuple[Hop, str]]:
    """The hops of a section, each with the text below it."""
    section = re.split(r"^## ", PAGE.split(f"## {title}\n")[1], flags=re.M)[0].split("\n## ")[0]
    _, *rest = HEADING.split(section)
    numbers, paths, names, texts = (rest[i::4] for i in range(4))
    assert [int(n) for n in numbers] == list(range(1, len(numbers) + 1))
    return [((p, n), text) for p, n, text in zip(paths, names, texts, strict=True)]


SHARD_TO_LOSS, PROMPT_TO_PIXELS = walk("From shard to loss"), walk("From prompt to pixels")
HOPS = [*SHARD_TO_LOSS, *PROMPT_TO_PIXELS]


def functions(path: str) -> dict[str, ast.FunctionDef]:
    """The functions of a file by qualified name, those inside others too."""

    def inside(node: ast.AST, prefix: str) -> dict[str, ast.FunctionDef]:
        found = {}
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if isinstance(child, ast.FunctionDef):
                    found[name] = child
                found |= inside(child, f"{name}.")
        return found

    return inside(ast.parse((ROOT / path).read_text()), "")


@pytest.mark.parametrize(("hop", "text"), HOPS, ids=[name for (_, name), _ in HOPS])
def test_a_hop_is_a_function_and_its_snippet_is_copied_from_it(hop, text):
    path, name = hop
    source = (ROOT / path).read_text().splitlines()
    function = functions(path)[name]
    lines = [line.strip() for line in source[function.lineno - 1 : function.end_lineno]]
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        assert [line for line in snippet.splitlines() if line.strip() not in lines] == []


def test_every_other_file_on_the_page_exists():
    names = re.findall(r"`(lightning_omni/[\w/.]+)`", PAGE)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_walks_are_short():
    paths = {path for (path, _), _ in SHARD_TO_LOSS}
    assert len(SHARD_TO_LOSS) <= 10
    assert len(paths) <= 12
    beside_nn = {p for (p, _), _ in PROMPT_TO_PIXELS if not p.startswith("lightning_omni/nn/")}
    assert len(PROMPT_TO_PIXELS) <= 12
    assert len(beside_nn) <= 12
    words = {9: "nine", 10: "ten", 11: "eleven", 12: "twelve"}
    for hops, files, rest in (
        (len(SHARD_TO_LOSS), len(paths), ""),
        (len(PROMPT_TO_PIXELS), len(beside_nn), " beside `lightning_omni/nn/`"),
    ):
        assert f"{words[hops].capitalize()} hops in {words[files]} files{rest}" in PAGE


class Tracer:
    """Functions of the package in the order in which they are first called.

    A generator counts when it first yields: being asked for a batch, it calls all that it needs.
    """

    def __init__(self) -> None:
        self.hops: dict[Hop, None] = {}

    def __call__(self, frame, event, _) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(str(ROOT / "lightning_omni")):
            return
        if event == ("return" if code.co_flags & inspect.CO_GENERATOR else "call"):
            path = str(Path(code.co_filename).relative_to(ROOT))
            self.hops.setdefault((path, code.co_qualname.replace("<locals>.", "")))

    def __enter__(self) -> "Tracer":
        sys.setprofile(self)
        return self

    def __exit__(self, *_) -> None:
        sys.setprofile(None)


def check_order(hops: list[tuple[Hop, str]], traced: Tracer) -> None:
    named = [hop for hop, _ in hops]
    assert [hop for hop in named if hop not in traced.hops] == []
    assert [hop for hop in traced.hops if hop in named] == named


def write_shards(folder: Path) -> None:
    """Samples of speech that answers a spoken question, with the transcript of the question."""
    rng = Random(0)
    files = []
    for number in range(8):
        codes = [tuple(16 * (i % 2) + rng.randrange(16) for i in range(10)) for _ in range(2)]
        turns = (
            Turn("user", (Part("speech", codes=codes[0]),)),
            Turn("assistant", (Part("text", text="a cat"), Part("speech", codes=codes[1]))),
        )
        sample = Sample(f"s{number}", "sqa", turns, {"text": "what is it", "voice": "awb"})
        files.append((f"s{number}.json", json.dumps(sample.to_json()).encode()))
    write_tar(folder / "sqa-train-000000.tar", files)


def tiny_training(folder: Path) -> tuple[LaneStream, MaskedDiffusionModule]:
    """A stream of batches and a module of a tiny backbone."""
    text = TextTokenizer()
    vocab = {"text": text.size, "speech": 32, "image": 64}
    pads = {"text": 4, "speech": 4}
    template = Template(
        Vocab.from_sizes(vocab, "native"), text, image_columns=4, codebooks=2, max_tail_pads=pads
    )
    mixture = Mixture(folder, {"sqa": 1.0}, 0, 1, frozenset({"sqa"}))
    stream = LaneStream(PackedLanes(mixture, template, rows=2, row_length=160), lanes=1)
    module = MaskedDiffusionModule(
        vocab=vocab,
        backbone=partial(Transformer, **{**SMALL, "qkv_bias": False}),
        code_feature_dims={},
        forward_process=ForwardProcess({name: Linear() for name in vocab}),
        modality_weight=dict.fromkeys(vocab, 1.0),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        weight_decay=0.0,
        warmup_steps=1,
        total_steps=10,
        final_lr_share=0.1,
        noise_seed=1,
    )
    module._trainer = SimpleNamespace(log_every_n_steps=100, global_step=0)
    module.log = lambda *_, **__: None
    return stream, module


def test_a_training_step_takes_the_walk_from_shard_to_loss(tmp_path):
    write_shards(tmp_path)
    stream, module = tiny_training(tmp_path)
    with Tracer() as traced:
        loss = module.training_step(next(iter(stream)).batch, 0)
    assert loss.isfinite()
    check_order(SHARD_TO_LOSS, traced)


def test_a_generation_takes_the_walk_from_prompt_to_pixels(tmp_path):
    out = tmp_path / "whale"
    with Tracer() as traced:
        generate(
            "t2i",
            text="a green whale",
            out=str(out),
            model="bundled",
            num_steps=2,
            guidance_scale=0.0,
            sampler=EntropyPenalty(),
        )
    assert out.with_suffix(".png").is_file()
    check_order(PROMPT_TO_PIXELS, traced)
