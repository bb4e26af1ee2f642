"""Imports hold no more than a shard in memory, and are whole or not there when killed."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is told by Linux's /proc"
)
SHARD = 50_000_000
CONFIG = {
    "model_type": "qwen2",
    "is_causal": False,
    "vocab_size": 3000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
}
READY = "from lightning_omni.interop.command import import_checkpoint; import sys; print('ready')"
IMPORT = "sys.stdout.flush(); import_checkpoint('qwen2', *map(Path, sys.argv[1:3]))"
PEAK = """
def told(what):
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024
Path('/proc/self/clear_refs').write_text('5')
before = told('VmRSS')
"""


def shapes():
    dim, ffn = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    yield "model.embed_tokens.weight", (CONFIG["vocab_size"], dim)
    for layer in range(CONFIG["num_hidden_layers"]):
        for name in "qkv":
            yield f"model.layers.{layer}.self_attn.{name}_proj.weight", (dim, dim)
            yield f"model.layers.{layer}.self_attn.{name}_proj.bias", (dim,)
        yield f"model.layers.{layer}.self_attn.o_proj.weight", (dim, dim)
        for name in ("gate", "up"):
            yield f"model.layers.{layer}.mlp.{name}_proj.weight", (ffn, dim)
        yield f"model.layers.{layer}.mlp.down_proj.weight", (dim, ffn)
        for name in ("input", "post_attention"):
            yield f"model.layers.{layer}.{name}_layernorm.weight", (dim,)
    yield "model.norm.weight", (dim,)
    yield "lm_head.weight", (CONFIG["vocab_size"], dim)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """220 MB in shards."""
    folder = tmp_path_factory.mktemp("large")
    rng, shards = torch.Generator().manual_seed(0), [{}]
    for name, shape in shapes():
        value = torch.empty(shape).uniform_(generator=rng)
        if sum(v.nbytes for v in (*shards[-1].values(), value)) > SHARD:
            shards.append({})
        shards[-1][name] = value
    place = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors")
        place |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def script(*lines):
    return "\n".join(("from pathlib import Path", *lines))


@needs_proc
def test_an_import_needs_less_memory_than_one_and_a_third_of_its_largest_shard(
    checkpoint, tmp_path
):
    program = script(READY, PEAK, IMPORT, "print(told('VmHWM') - before)")
    args = [sys.executable, "-c", program, str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    largest = max(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert int(done.stdout.split()[-1]) < 1.3 * largest
    written = load_file(tmp_path / "out" / "model.safetensors")
    for path in checkpoint.glob("*.safetensors"):
        for name, value in load_file(path).items():
            found = [v for v in written.values() if v.shape == value.shape and v.equal(value)]
            assert len(found) >= 1, name


@pytest.mark.slow
def test_an_import_that_is_killed_leaves_nothing_or_the_whole_result(checkpoint, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    seconds = killed_after(checkpoint, whole, None)
    expected = (whole / "model.safetensors").read_bytes()
    rng, is_integer = random.Random(0), []
    for _ in range(20):
        killed_after(checkpoint, out, rng.uniform(0, 1.2 * seconds))
        is_integer.append(out.exists())
        if out.exists():
            assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
            assert (out / "model.safetensors").read_bytes() == expected
            assert not (tmp_path / "out.partial").exists()
        for left in (out, tmp_path / "out.partial"):
            shutil.rmtree(left, ignore_errors=True)
    assert 0 < sum(is_integer) < len(is_integer)


def killed_after(checkpoint, out, delay):
    """Import in a process of its own that is killed after some seconds; tells how long it took."""
    args = [sys.executable, "-c", script(READY, IMPORT), str(checkpoint), str(out)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        start = time.perf_counter()
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.wait()
        return time.perf_counter() - start
