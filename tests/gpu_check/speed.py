"""Checks of speed: waits, compiled blocks, whole steps, sampling, the feed."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from measuring import (
    PEAK_TFLOPS,
    Options,
    autocast,
    outcome,
    packed_lengths,
    synchronize,
    timed,
)
from pretended_gpu import pretend
from project import BASE, PROJECT, SEVEN, SMALL, Unsupported


def check_syncs(o: Options) -> dict[str, Any]:
    """How often a training step waits for the GPU, and where."""
    import torch

    rng = torch.Generator().manual_seed(1)
    total = 160 if o.tiny else 2048
    shape = SMALL if o.tiny else {**BASE, "num_layers": 2}
    batch = PROJECT.batch(
        PROJECT.sizes, [packed_lengths(total - 10, 20, total // 4, rng)], total, rng
    )
    torch.manual_seed(0)
    module = PROJECT.module(PROJECT.sizes, shape)
    where: dict[str, int] = {}
    wrong: dict[str, int] = {}
    if o.device == "cpu":
        gpu = pretend()
        mode = gpu.Mode()
        with mode:
            gpu.move(module)
            moved = gpu.batch(batch)
            update = PROJECT.update(module)
            for _ in range(2):
                mode.syncs.clear()
                with gpu.autocast(True):
                    loss = module.training_step(moved, 0)
                loss.backward()
                update()
        where = dict(mode.syncs.most_common())
        wrong = dict(mode.wrong)
    else:
        module.to("cuda")
        update = PROJECT.update(module)
        moved = PROJECT.to_device(batch, "cuda")

        def step() -> None:
            with autocast("cuda"):
                loss = module.training_step(moved, 0)
            loss.backward()
            update()

        for _ in range(3):
            step()
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            step()
            torch.cuda.set_sync_debug_mode("default")
        for w in caught:
            if "synchron" in str(w.message):
                at = f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}"
                where[at] = where.get(at, 0) + 1
    count = sum(where.values())
    result = outcome(count == 0, f"{count} waits in a step", "0", speed=True, where=where)
    return {**result, "status": "FAIL", "wrong": wrong} if wrong else result


def check_update(o: Options) -> dict[str, Any]:
    """Weights of 100 M parameters: AdamW and averages by one kernel and by several."""
    import torch

    shapes = [(64, 64)] * 4 + [(64,)] * 8 if o.tiny else [(2048, 2048)] * 24 + [(2048,)] * 100
    rng = torch.Generator().manual_seed(0)
    parameters = [torch.randn(s, generator=rng).to(o.device).requires_grad_() for s in shapes]
    for p in parameters:
        p.grad = torch.randn_like(p)
    found: dict[str, Any] = {}
    for name, run in PROJECT.ways_to_update(parameters, o.device).items():
        if o.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if o.device == "cuda" else 0
        found[name] = {"ms": timed(run, o.device, 2 if o.tiny else 20)[0] * 1e3}
        if o.device == "cuda":
            found[name]["extra_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    slower = [
        part
        for part in ("average", "AdamW")
        if found[f"{part}, one kernel"]["ms"] > found[f"{part}, several"]["ms"]
    ]
    return outcome(
        o.device == "cpu" or not slower,
        "; ".join(f"{n} {x['ms']:.2f} ms" for n, x in found.items()),
        "one kernel is faster" if o.device == "cuda" else "runs",
        speed=True,
        **found,
    )


def check_compile(o: Options) -> dict[str, Any]:
    """Graph breaks and recompilations of compiled blocks while batches differ."""
    import torch
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    dynamo.config.recompile_limit = 64
    backend = "inductor" if o.device == "cuda" else "aot_eager"
    if o.device == "cpu":  # what runs on a GPU is one opaque kernel; so it is here

        def forward(
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            cq: torch.Tensor,
            ck: torch.Tensor,
            mq: int,
            mk: int,
        ) -> torch.Tensor:
            return q.clone()

        forward.__annotations__ = {
            **dict.fromkeys(("q", "k", "v", "cq", "ck"), torch.Tensor),
            "mq": int,
            "mk": int,
            "return": torch.Tensor,
        }
        kernel = torch.library.custom_op("gpu_check::varlen", forward, mutates_args=())
        kernel.register_fake(lambda q, *rest: torch.empty_like(q))
        kernel.register_autograd(
            lambda ctx, g: (
                g.clone(),
                g.new_zeros(ctx.shape),
                g.new_zeros(ctx.shape),
                None,
                None,
                None,
                None,
            ),
            setup_context=lambda ctx, inputs, output: setattr(ctx, "shape", inputs[1].shape),
        )
        PROJECT.stand_in_kernel(kernel)
    total = 512 if o.tiny or o.device == "cpu" else 4096
    found, rng = {}, torch.Generator().manual_seed(1)
    count = 4 if o.tiny else 6
    batches = [
        PROJECT.to_device(
            PROJECT.batch(PROJECT.sizes, [packed_lengths(total, 20, 100, rng)], total, rng),
            o.device,
        )
        for _ in range(count)
    ]
    for name in ("blocks but the last", "blocks"):
        dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        module = PROJECT.module(PROJECT.sizes, SMALL).to(o.device)
        blocks = list(PROJECT.blocks(module))
        if name == "blocks" and o.device == "cuda":
            PROJECT.compile_blocks(module)
        else:
            for block in blocks if name == "blocks" else blocks[:-1]:
                block.compile(backend=backend)
        graphs, seconds = [], []
        for batch in batches:
            start = time.perf_counter()
            with autocast(o.device):
                loss = module.training_step(batch, 0)
            loss.backward()
            synchronize(o.device)
            graphs.append(int(counters["stats"].get("unique_graphs", 0)))
            seconds.append(round(time.perf_counter() - start, 2))
            if o.left() < 5:
                break
        breaks = {str(k).split("\n")[0][:160]: v for k, v in counters["graph_break"].most_common(5)}
        found[name] = {
            "graphs": graphs,
            "seconds": seconds,
            "breaks": sum(counters["graph_break"].values()),
            "why": breaks,
        }
        o.keep(found, f"{name}: graphs {graphs}")
    best = found["blocks"]
    ok = (
        best["breaks"] == 0
        and best["graphs"][-1] == best["graphs"][min(1, len(best["graphs"]) - 1)]
    )
    return outcome(
        ok,
        "; ".join(
            f"{n}: graphs after each batch {x['graphs']}, {x['breaks']} breaks"
            for n, x in found.items()
        ),
        "no breaks, no new graph after the second batch",
        speed=True,
        **found,
    )


def _speed_sizes(o: Options, vocab: int) -> dict[str, int]:
    if o.tiny:
        return {"text": vocab - 600, "speech": 256, "image": 256}
    return (
        {"text": vocab - 8192 - 4096 - 100, "speech": 4096, "image": 8192}
        if vocab < 100_000
        else {"text": 151_643, "speech": 16_384, "image": 8192}
    )


def _speed(
    o: Options,
    title: str,
    shape: dict[str, Any],
    vocab: int,
    tokens: int,
    longest: int,
    *,
    way: str,
    recompute: bool | str,
    profile: bool,
) -> dict[str, Any]:
    """Step time, tokens/s, MFU, peak memory of whole steps (forward process, backward, clipping, fused AdamW)."""
    import torch

    sizes, rng = _speed_sizes(o, vocab), torch.Generator().manual_seed(1)
    batches = []
    for _ in range(2 if o.tiny else 4):
        lengths = packed_lengths(tokens, longest // 8, longest, rng)
        batches.append(PROJECT.to_device(PROJECT.batch(sizes, [lengths], tokens, rng), o.device))
    torch.manual_seed(0)
    with torch.device(o.device):
        module = PROJECT.module(sizes, shape, recompute=recompute, masking="bernoulli")
    module.to(o.device)
    if way == "pointwise":
        PROJECT.compile_pointwise(module)
    elif way == "blocks":
        PROJECT.compile_blocks(module)
    if o.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    number = [0]

    def gradients() -> None:  # as a step that accumulates them
        batch = batches[number[0] % len(batches)]
        number[0] += 1
        with autocast(o.device):
            loss = module.training_step(batch, 0)
        loss.backward()

    def step() -> None:
        gradients()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    started = time.perf_counter()
    seconds, spread = timed(step, o.device, 2 if o.tiny else 8, warm_up=1 if o.tiny else 4)
    without_update, _ = timed(gradients, o.device, 1 if o.tiny else 8, warm_up=1)
    optimizer.zero_grad()
    masked = [len(PROJECT.corrupted(module, b)[1]) for b in batches]
    flops = statistics.mean(
        PROJECT.flops(module, b, m) for b, m in zip(batches, masked, strict=True)
    )
    found = {
        "ms": seconds * 1e3,
        "spread": spread,
        "tokens_per_s": tokens / seconds,
        "gflop": flops / 1e9,
        "mfu": flops / seconds / 1e12 / PEAK_TFLOPS,
        "ms_without_update": without_update * 1e3,
        "mfu_without_update": flops / without_update / 1e12 / PEAK_TFLOPS,
        "tflops": flops / seconds / 1e12,
        "tokens": tokens,
        "longest": longest,
        "masked": statistics.mean(masked),
        "parameters": sum(p.numel() for p in module.parameters()),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if o.device == "cuda" else None,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if o.device == "cuda" else None,
        "with_warm_up_s": time.perf_counter() - started,
    }
    if profile and o.left() > 15:
        from torch.profiler import ProfilerActivity, record_function
        from torch.profiler import profile as profiler

        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if o.device == "cuda" else [])
        with profiler(activities=kinds) as p:
            for _ in range(2):
                with record_function("step"):
                    step()
            synchronize(o.device)
        by = "self_cuda_time_total" if o.device == "cuda" else "self_cpu_time_total"
        with (o.out / "profiles.txt").open("a") as file:
            file.write(
                f"{title}\n{p.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=70)}\n\n"
            )
        calls = [
            e
            for e in p.key_averages()
            if e.key
            in (
                "cudaStreamSynchronize",
                "cudaMemcpyAsync",
                "cudaLaunchKernel",
                "cuLaunchKernel",
                "cuLaunchKernelEx",
                "cudaDeviceSynchronize",
            )
        ]
        found["calls_per_step"] = {e.key: e.count / 2 for e in calls}
    del module, optimizer
    if o.device == "cuda":
        torch.cuda.empty_cache()
    return found


def _said(name: str, x: dict[str, Any]) -> str:
    memory = f", {x['peak_gb']:.0f} GB" if x.get("peak_gb") else ""
    return (
        f"{name}: {x['ms']:.0f} ms, {x['tokens_per_s']:,.0f} tokens/s, MFU {x['mfu']:.1%} "
        f"({x['mfu_without_update']:.1%} without the update){memory}"
    )


def _all_said(found: dict[str, Any]) -> str:
    return "; ".join(_said(n, x) if isinstance(x, dict) else f"{n}: {x}" for n, x in found.items())


def _speeds(
    o: Options, cases: dict[str, dict[str, Any]], target: float, best_of: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, case in cases.items():
        if o.left() < 12:
            found[name] = "no time left"
            continue
        try:
            found[name] = _speed(o, name, **case)
        except Unsupported as error:
            found[name] = f"not supported: {error}"
        except Exception as error:  # noqa: BLE001 - out of memory in one case is a finding
            found[name] = f"{type(error).__name__}: {error}"[:300]
            traceback.print_exc()
        o.keep(found, _all_said(found))
    good = {n: x for n, x in found.items() if isinstance(x, dict)}
    mfu = max((x["mfu"] for n, x in good.items() if best_of in n), default=math.nan)
    said = _all_said(found)
    ok = mfu >= target if o.device == "cuda" else bool(good)
    return outcome(
        ok,
        said,
        f"MFU {target:.0%} of {PEAK_TFLOPS} TFLOP/s" if o.device == "cuda" else "runs",
        speed=True,
        **found,
    )


def check_speed_100m(o: Options) -> dict[str, Any]:
    """Whole steps of a model of 75 M parameters in blocks, with 20 k and 176 k ids."""
    shape = {**SMALL, "qk_norm": False} if o.tiny else BASE
    small, large = (1200, 3000) if o.tiny else (20_000, 176_264)
    tokens, longest = (256, 64) if o.tiny else (16_384, 3072)
    common = {"shape": shape, "tokens": tokens, "recompute": False}
    cases = {
        f"{small} ids": {
            **common,
            "vocab": small,
            "longest": longest,
            "way": "eager",
            "profile": True,
        },
        f"{large} ids": {
            **common,
            "vocab": large,
            "longest": longest,
            "way": "eager",
            "profile": True,
        },
    }
    if not o.tiny:  # compiling takes long: last
        cases[f"{small} ids, samples to 8192"] = {
            **common,
            "vocab": small,
            "longest": 8192,
            "way": "eager",
            "profile": False,
        }
        cases[f"{small} ids, compiled pointwise"] = {
            **common,
            "vocab": small,
            "longest": longest,
            "way": "pointwise",
            "profile": False,
        }
        cases[f"{small} ids, compiled blocks"] = {
            **common,
            "vocab": small,
            "longest": longest,
            "way": "blocks",
            "profile": True,
        }
        cases[f"{large} ids, compiled blocks"] = {
            **common,
            "vocab": large,
            "longest": longest,
            "way": "blocks",
            "profile": False,
        }
    result = _speeds(o, cases, 0.35, f"{small} ids")
    many = result["numbers"].get(f"{large} ids")
    if o.device == "cuda" and not (
        isinstance(many, dict) and many["mfu"] >= 0.30 and many["peak_gb"] < 40
    ):
        result["status"] = "miss"
    result["against"] += f"; {large} ids 30 % and below 40 GB" if o.device == "cuda" else ""
    return result


def check_speed_7b(o: Options) -> dict[str, Any]:
    """Blocks of the 7B shape, cut in depth, and by their difference the time of a block and of the rest."""
    shape = {**SMALL, "is_shifted": True} if o.tiny else SEVEN
    few, many = (1, 2) if o.tiny else (2, 6)
    vocab, tokens, longest = (3000, 256, 64) if o.tiny else (176_264, 8192, 3072)
    common = {
        "vocab": vocab,
        "tokens": tokens,
        "longest": longest,
        "recompute": True,
        "profile": True,
    }
    cases = {
        f"{n} blocks": {**common, "shape": {**shape, "num_layers": n}, "way": "eager"}
        for n in (few, many)
    }
    if not o.tiny:
        cases["6 blocks, not recomputed"] = {
            **cases["6 blocks"],
            "recompute": False,
            "profile": False,
        }
        for name, way, kept in (
            ("selective", "eager", "selective"),
            ("compiled blocks, selective", "blocks", "selective"),
            ("compiled blocks, not recomputed", "blocks", False),
        ):
            cases[f"6 blocks, {name}"] = {
                **cases["6 blocks"],
                "way": way,
                "recompute": kept,
                "profile": way == "blocks" and bool(kept),
            }
    result = _speeds(o, cases, 0.40, "blocks")
    a, b = (result["numbers"].get(f"{n} blocks") for n in (few, many))
    if isinstance(a, dict) and isinstance(b, dict):
        # the update is left out: the recipes make one of 16 batches, and eight devices share it
        one, two = a["ms_without_update"], b["ms_without_update"]
        each, flop = (two - one) / (many - few), (b["gflop"] - a["gflop"]) / (many - few)
        whole_ms, whole_gflop = one + (28 - few) * each, a["gflop"] + (28 - few) * flop
        mfu = whole_gflop / whole_ms / PEAK_TFLOPS
        result["numbers"]["extrapolated to 28 blocks"] = {
            "ms": whole_ms,
            "mfu": mfu,
            "ms_per_block": each,
            "ms_of_the_rest": one - few * each,
            "tokens_per_s": tokens / whole_ms * 1e3,
        }
        result["headline"] += (
            f"; extrapolated to 28 blocks without the update ({each:.1f} ms each, the rest {one - few * each:.1f}): "
            f"{whole_ms:.0f} ms, MFU {mfu:.1%}"
        )
        if o.device == "cuda":
            result["status"] = "pass" if mfu >= 0.40 else "miss"
    return result


def check_sampling(o: Options) -> dict[str, Any]:
    """Filling answers: plain, with a cache and with a sampler that stops early; alone and as a batch."""
    import torch

    vocab = 1200 if o.tiny else 20_000
    shape = {**SMALL, "qk_norm": False} if o.tiny else BASE
    prompt, answer, steps = (16, 32, 8) if o.tiny else (512, 256, 64)
    torch.manual_seed(0)
    small = PROJECT.backbone(vocab, [], {**SMALL, "qk_norm": False}).eval()
    common = {
        "prompt": 16,
        "answer": 32,
        "batch": 2,
        "steps": 8,
        "refresh_every": 1,
        "sampler": "confidence",
        "bf16": False,
    }
    want, _ = PROJECT.fill(small, vocab, **common, device="cpu")
    got, _ = PROJECT.fill(small.to(o.device), vocab, **common, device=o.device)
    equal = float((got.cpu() == want).float().mean())
    torch.manual_seed(0)
    network = PROJECT.backbone(vocab, [], shape).to(o.device).eval()
    found: dict[str, Any] = {}
    for name, batch, every, sampler in (
        ("plain", 1, 1, "confidence"),
        ("plain, batch", 16, 1, "confidence"),
        ("cache", 1, 8, "confidence"),
        ("cache, batch", 16, 8, "confidence"),
        ("entropy bounded, cache, batch", 16, 8, "entropy_bounded"),
    ):
        if o.left() < 8:
            break
        if o.tiny:
            batch = min(batch, 2)
        run = lambda batch=batch, every=every, sampler=sampler: PROJECT.fill(  # noqa: E731
            network,
            vocab,
            prompt=prompt,
            answer=answer,
            batch=batch,
            steps=steps,
            refresh_every=every,
            sampler=sampler,
            bf16=True,
            device=o.device,
        )
        forwards = run()[1]
        seconds, _ = timed(run, o.device, 1 if o.tiny else 3, warm_up=1)
        found[name] = {
            "s": seconds,
            "forwards": forwards,
            "ms_per_step": seconds / forwards * 1e3,
            "tokens_per_s": batch * answer / seconds,
        }
    ok = equal == 1.0
    wanted = (
        ("plain", 256),
        ("plain, batch", 3000),
        ("cache", found.get("plain", {}).get("tokens_per_s", 0)),
    )
    slow = o.device == "cuda" and any(
        found.get(n, {}).get("tokens_per_s", 0) < least for n, least in wanted
    )
    result = outcome(
        ok,
        f"{equal:.0%} of tokens as on the CPU; "
        + "; ".join(
            f"{n}: {x['tokens_per_s']:,.0f} tokens/s, {x['forwards']} steps of {x['ms_per_step']:.1f} ms"
            for n, x in found.items()
        ),
        "all tokens equal; plain 256 tokens/s, a batch 3,000, the cache faster",
        equal=equal,
        **found,
    )
    return result | {"status": "miss"} if ok and slow else result


def check_encode(o: Options) -> dict[str, Any]:
    """Pictures and clips to codes: waits for the GPU a batch, codes beside the CPU's, and the rate."""
    import numpy as np

    count, batch = (24, 8) if o.tiny else (512, 64)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shards = PROJECT.media_shards(Path(folder), count)
        here = PROJECT.encoder("cpu", batch)
        codes = {kind: here(shard, kind) for kind, shard in shards.items()}
        mode: Any = contextlib.nullcontext()
        if o.device == "cpu":
            mode = pretend().Mode()
        with mode:
            there = PROJECT.encoder("cuda:0" if o.device == "cpu" else "cuda", batch)
            for kind, shard in shards.items():
                if o.device == "cpu":
                    mode.syncs.clear()
                else:
                    there(shard, kind)
                start = time.perf_counter()
                got = there(shard, kind)
                found[kind] = {"per_s": count / (time.perf_counter() - start)}
                if o.device == "cpu":
                    found[kind]["waits"] = sum(mode.syncs.values()) / (count / batch)
                    found[kind]["where"] = dict(mode.syncs)
                    found[kind]["wrong"] = dict(mode.wrong)
                in_order = [key for key, _ in got] == [key for key, _ in codes[kind]]
                pairs = zip(got, codes[kind], strict=True)
                equal = [float(np.mean(a == b)) for (_, a), (_, b) in pairs]
                found[kind]["equal"] = statistics.mean(equal) if in_order else 0.0
    limit = 1.0 if o.device == "cpu" else 0.95
    ok = all(x["equal"] >= limit and not x.get("wrong") for x in found.values())
    waits = max(x.get("waits", 0) for x in found.values())
    return outcome(
        ok and waits <= 1,
        "; ".join(
            f"{n}: {x['per_s']:,.0f} a second, {x['equal']:.1%} of codes as on the CPU"
            for n, x in found.items()
        )
        + (f"; {waits:.2f} waits a batch" if o.device == "cpu" else ""),
        "one wait a batch; on a GPU 95 % of codes, in bfloat16 for pictures",
        speed=ok,
        **found,
    )


def check_feed(o: Options) -> dict[str, Any]:
    """Tokens per second from shards to the device, with and without workers."""
    if not (o.root / PROJECT.data).is_dir():
        raise Unsupported(f"{PROJECT.data} under {o.root}: carry a prepared folder")
    os.chdir(o.root)
    found: dict[str, Any] = {}
    for workers in (None, 2) if o.tiny else (None, 4, 8):
        name = "as it is" if workers is None else f"{workers} workers"
        try:
            data = PROJECT.datamodule(o.root, 2 if o.tiny else 4, 512 if o.tiny else 4096, workers)
            loader = iter(data.train_dataloader())
            for _ in range(1 + 2 * (workers or 0)):
                PROJECT.to_device(next(loader), o.device)
            tokens, start = 0, time.perf_counter()
            while time.perf_counter() - start < (1.5 if o.tiny else 5):
                batch = PROJECT.to_device(next(loader), o.device)
                tokens += batch.ids.numel()
            synchronize(o.device)
            found[name] = tokens / (time.perf_counter() - start)
        except Unsupported as error:
            found[name] = f"not supported: {error}"
    best = max((x for x in found.values() if isinstance(x, float)), default=0.0)
    return outcome(
        best >= 600_000 if o.device == "cuda" else best > 0,
        "; ".join(
            f"{n}: {x:,.0f} tokens/s" if isinstance(x, float) else f"{n}: {x}"
            for n, x in found.items()
        ),
        "600,000 tokens/s (what 100 M parameters at 40 % take)" if o.device == "cuda" else "runs",
        speed=True,
        **found,
    )
