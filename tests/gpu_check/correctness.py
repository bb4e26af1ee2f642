"""Checks of right results: kernels, steps, devices, sharding, answers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import platform
import statistics
import subprocess
import tempfile
import time
from typing import Any

from measuring import (
    Options,
    autocast,
    outcome,
    packed_lengths,
    relative,
    synchronize,
    timed,
)
from pretended_gpu import pretend
from project import PROJECT, SMALL, Unsupported


def check_environment(o: Options) -> dict[str, Any]:
    """What there is, and the two ceilings of the card: a matrix product and a copy."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    for name in (
        "lightning",
        "triton",
        "flash_attn",
        "flash_attn_interface",
        "transformer_engine",
        "webdataset",
        "encodec",
    ):
        found[name] = bool(importlib.util.find_spec(name))
    with contextlib.suppress(ImportError):
        import inspect

        from torch.nn.attention import varlen

        found["varlen_attn"] = list(inspect.signature(varlen.varlen_attn).parameters)
    with contextlib.suppress(ImportError):
        from torch.nn import attention

        found["flash_implementations"] = getattr(attention, "list_flash_attention_impls", list)()
    found["kernel of the project"] = PROJECT.attention_kernel(o.device)
    if o.device == "cuda":
        props = torch.cuda.get_device_properties(0)
        smi = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=name,driver_version,memory.total,clocks.sm,power.limit",
                "--format=csv,noheader",
            ],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        found |= {
            "gpu": props.name,
            "memory_gb": props.total_memory / 1e9,
            "multiprocessors": props.multi_processor_count,
            "nvidia-smi": smi,
        }
    n = 8192 if o.device == "cuda" else 512
    a, b = (torch.randn(n, n, device=o.device, dtype=torch.bfloat16) for _ in range(2))
    gemm, _ = timed(lambda: a @ b, o.device, 10)
    x = torch.randn(2**28 if o.device == "cuda" else 2**22, device=o.device)
    y = torch.empty_like(x)
    copy, _ = timed(lambda: y.copy_(x), o.device, 10)
    found |= {"gemm_tflops": 2 * n**3 / gemm / 1e12, "copy_gb_s": 8 * x.numel() / copy / 1e9}
    return outcome(
        True,
        f"{found.get('gpu', platform.processor() or 'CPU')}, torch {found['torch']}, kernel {found['kernel of the project']}, "
        f"products {found['gemm_tflops']:.0f} TFLOP/s, copy {found['copy_gb_s']:.0f} GB/s",
        "",
        **found,
    )


def check_devices(o: Options) -> dict[str, Any]:
    """A step, the loss and the gradients on a pretended GPU: nothing on a wrong device, the same numbers."""
    import torch

    if o.device == "cuda":
        raise Unsupported("a GPU need not be pretended here; `syncs` looks at the real one")
    gpu, found = pretend(), {}
    cases = {
        "as in recipes/stage3": {"features": {"image": 6}},
        "as in recipes/paper": {
            "shape": {**SMALL, "qk_norm": False, "is_shifted": True},
            "recompute": True,
            "masking": "bernoulli",
        },
        "isolated prompts": {"shape": {**SMALL, "isolate_prompt": True}},
        "a time per token, weights none": {
            "masking": "bernoulli",
            "process_options": {"time_per": "token", "weighting": "none"},
        },
        "spans, replaced tokens, ratios from .3": {
            "process_options": {
                "spans": {"speech": 3},
                "replace_ratio": 0.2,
                "ratio_range": (0.3, 1.0),
            },
        },
        "selective recomputation": {"recompute": "selective"},
        "complements of masks, weights by modality": {
            "prepare": lambda batch, rng: PROJECT.complementary(batch),
            "weights": {name: 0.5 + n for n, name in enumerate(PROJECT.sizes)},
        },
        "features for tokens": {
            "shape": {**SMALL, "continuous_dim": 8},
            "prepare": lambda batch, rng: PROJECT.with_features(batch, 8, rng),
        },
    }
    if importlib.util.find_spec("peft") is not None:
        adapted = {"rank": 2, "alpha": 4.0}
        fine_tuned = {"process_options": {"ratio_range": (0.3, 1.0)}}
        cases |= {
            "as in recipes/finetune, adapters": {"lora": adapted, **fine_tuned},
            "adapters and trainable rows": {"lora": {**adapted, "trainable_rows_from": 20}},
            "adapters, recomputation": {"lora": {**adapted, "dropout": 0.0}, "recompute": True},
        }
    for name in PROJECT.schedules():
        cases[f"schedule {name}"] = {"schedules": [name] * len(PROJECT.sizes)}
    for name, case in cases.items():
        rng = torch.Generator().manual_seed(1)
        batch = PROJECT.batch(
            PROJECT.sizes, [packed_lengths(150, 20, 40, rng) for _ in range(2)], 160, rng
        )
        batch = case.pop("prepare", lambda batch, rng: batch)(batch, rng)
        for bf16 in (False, True):
            torch.manual_seed(0)
            given = {"shape": SMALL, **case}
            there = PROJECT.module(PROJECT.sizes, **given)
            here = PROJECT.module(PROJECT.sizes, **given)
            here.load_state_dict(there.state_dict())
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                want = here.training_step(batch, 0)
            want.backward()
            mode = gpu.Mode()
            with mode:
                gpu.move(there)
                moved = gpu.batch(batch)
                with gpu.autocast(bf16):
                    loss = there.training_step(moved, 0)
                loss.backward()
            gradients = [
                (n, p.grad, q.grad)
                for (n, p), q in zip(there.named_parameters(), here.parameters(), strict=True)
                if q.grad is not None
            ]
            worst = max(relative(g.values_, w) for _, g, w in gradients)
            found[f"{name}, {'bf16' if bf16 else 'fp32'}"] = {
                "loss": float(loss.values_),
                "on_cpu": float(want),
                "worst_gradient": worst,
                "ops": mode.ops,
                "blocking": sum(mode.syncs.values()),
                "where": dict(mode.syncs.most_common()),
                "wrong_device": dict(mode.wrong),
            }
    answers = {}
    asked = {"tqa": {"text": "What is two plus two?"}, "t2i": {"text": "a green whale"}}
    options = {task: {} for task in asked}
    for name, sampler in PROJECT.samplers().items():
        asked[name], options[name] = asked["tqa"], {"sampler": sampler}
    asked["guided, in blocks, cached"] = asked["t2i"]
    options["guided, in blocks, cached"] = {
        "guidance_scale": 1.0,
        "block_size": 16,
        "cache_interval": 4,
        "num_steps": 8,
    }
    here, mode = PROJECT.omni("cpu"), gpu.Mode()
    with mode:
        there = PROJECT.omni("cuda:0")
        mode.syncs.clear()
        for task, given in asked.items():
            mode.syncs.clear()
            kind = task if task in ("tqa", "t2i") else ("t2i" if "guided" in task else "tqa")
            got = there.generate(kind, seed=3, precision="float32", **given, **options[task])
            answers[task] = {
                "text": got.text,
                "image": got.image,
                "forwards": got.record["forwards"],
                "blocking": sum(mode.syncs.values()),
                "where": dict(mode.syncs.most_common(20)),
            }
    extra = dict(mode.wrong)
    for task, given in asked.items():
        kind = task if task in ("tqa", "t2i") else ("t2i" if "guided" in task else "tqa")
        want = here.generate(kind, seed=3, precision="float32", **given, **options[task])
        same = answers[task]["text"] == want.text and (
            want.image is None or want.image.tobytes() == answers[task].pop("image").tobytes()
        )
        answers[task] |= {"image": None, "same": same}
    mode = gpu.Mode()
    with mode, contextlib.suppress(Unsupported):
        PROJECT.restart_codes(gpu.move, "cuda:0")
    extra |= dict(mode.wrong)
    wrong = sum(len(x["wrong_device"]) for x in found.values()) + len(extra)
    apart = max(abs(x["loss"] / x["on_cpu"] - 1) for n, x in found.items() if "fp32" in n)
    worst = max(x["worst_gradient"] for n, x in found.items() if "fp32" in n)
    blocking = {n: x["blocking"] for n, x in found.items() if "bf16" in n}
    ok = not wrong and apart < 1e-5 and worst < 1e-4 and all(x["same"] for x in answers.values())
    said = f"{wrong} on a wrong device{' (' + '; '.join(' '.join(x.split()) for x in extra) + ')' if extra else ''}"
    blocking |= {f"answering {t}": answers[t]["blocking"] for t in ("tqa", "t2i")}
    differing = [t for t, x in answers.items() if not x["same"]]
    return outcome(
        ok,
        f"{said}; {len(answers)} ways of answering, other than the CPU's: {differing or 'none'}; "
        f"loss apart {apart:.1e}, gradient {worst:.1e}; waits for the GPU per step: {blocking}",
        "none wrong, 1e-5, 1e-4 (waits: see `syncs`)",
        answers=answers,
        beside_steps=extra,
        **found,
    )


def check_attention(o: Options) -> dict[str, Any]:
    """The project's packed attention against a block-diagonal SDPA in float64; speed of every kernel."""
    import torch
    import torch.nn.functional as F

    torch.backends.cuda.matmul.allow_tf32 = False
    rng = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}

    def reference(q: Any, k: Any, v: Any, lengths: Any, key_lengths: Any) -> Any:
        n = q.shape[1] // k.shape[1]
        ids = [
            torch.repeat_interleave(torch.arange(len(x)), torch.tensor(x))
            for x in (lengths, key_lengths)
        ]
        mask = (ids[0][:, None] == ids[1][None]).to(q.device)
        k, v = k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)

    cases = {
        "4 heads, 2 of keys": (4, 2, 64, [40, 1, 100, 7], None),
        "grouped as 7B": (28, 4, 128, [130, 300, 82], None),
        "some ask": (8, 2, 64, [10, 0, 33, 5], [40, 20, 100, 7]),
        "one length": (4, 4, 32, [64, 64], None),
        "equal heads, long": (6, 6, 64, [300, 64, 0, 129, 192], None),
    }
    ok = True
    for name, (heads, groups, size, lengths, keys) in cases.items():
        keys = keys or lengths
        base = [
            torch.randn(sum(n), h, size, generator=rng)
            for n, h in ((lengths, heads), (keys, groups), (keys, groups))
        ]
        up = torch.randn(sum(lengths), heads, size, generator=rng)
        for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            rounded = [x.to(dtype) for x in (*base, up)]
            wide = [x.double().requires_grad_() for x in rounded[:3]]
            want = reference(*wide, lengths, keys)
            want_grads = torch.autograd.grad(want, wide, rounded[3].double())
            mine = [x.to(o.device).requires_grad_() for x in rounded[:3]]
            try:
                got = PROJECT.attention(*mine, lengths, keys)
                grads = torch.autograd.grad(got, mine, rounded[3].to(o.device))
            except Unsupported:
                raise
            except Exception as error:  # noqa: BLE001 - one kernel's refusal is a finding
                found[f"{name}, {dtype}"], ok = f"{type(error).__name__}: {error}"[:300], False
                continue
            apart = [
                relative(a, b) for a, b in zip((got, *grads), (want, *want_grads), strict=True)
            ]
            good = all(a < limit for a in apart)  # NaN is not
            ok &= good
            found[f"{name}, {dtype}"] = {"forward, dq, dk, dv": apart, "limit": limit, "ok": good}
    rates = _attention_rates(o, rng) if o.device == "cuda" and not o.tiny else {}
    worst = max(
        (max(x["forward, dq, dk, dv"]) / x["limit"] for x in found.values() if isinstance(x, dict)),
        default=math.nan,
    )
    said = "; ".join(f"{n} {r}" for n, r in rates.items())
    own = rates.get("project", "")
    slow = "TFLOP/s" in own and float(own.partition("/")[0]) < 300
    result = outcome(
        ok,
        f"{len(found)} cases, worst at {worst:.2f} of its limit{'; ' + said if said else ''}",
        "fp32 1e-5, bf16 1e-2, forward and gradients; 300 TFLOP/s forward",
        **found,
        rates=rates,
    )
    return result | {"status": "miss"} if ok and slow else result


def _attention_rates(o: Options, rng: Any) -> dict[str, str]:
    """TFLOP/s, forward and forward with backward, of kernels that this torch has; 7B heads, 8192 tokens."""
    import torch

    lengths = packed_lengths(8192, 256, 3072, rng)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).cuda()
    q, k, v = (
        torch.randn(8192, h, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for h in (28, 4, 4)
    )
    up = torch.randn_like(q)
    flops = 4 * sum(n * n for n in lengths) * 28 * 128

    def expanded() -> Any:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(
            q,
            k.repeat_interleave(7, 1),
            v.repeat_interleave(7, 1),
            ends,
            ends,
            max(lengths),
            max(lengths),
        )

    def as_they_are() -> Any:  # torch 2.11 has no enable_gqa, and its flash kernel may not need it
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))

    def grouped() -> Any:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths), enable_gqa=True)

    def flash() -> Any:
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(q, k, v, ends, ends, max(lengths), max(lengths))

    def flex() -> Any:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if not hasattr(flex, "mask"):
            ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).cuda()
            flex.mask = create_block_mask(
                lambda b, h, i, j: ids[i] == ids[j], None, None, 8192, 8192, device="cuda"
            )
            flex.run = torch.compile(flex_attention)
        return flex.run(
            *(x.transpose(0, 1)[None] for x in (q, k, v)), block_mask=flex.mask, enable_gqa=True
        )[0].transpose(0, 1)

    ways = {
        "project": lambda: PROJECT.attention(q, k, v, lengths, lengths),
        "varlen_attn, heads repeated": expanded,
        "varlen_attn, fewer key heads": as_they_are,
        "varlen_attn, enable_gqa": grouped,
        "flash_attn": flash,
        "flex_attention": flex,
    }
    found = {}
    for name, way in ways.items():
        if o.left() < 20:
            found[name] = "no time left"
            continue
        try:
            f, _ = timed(lambda way=way: way(), "cuda", 10)
            both, _ = timed(lambda way=way: torch.autograd.grad(way(), (q, k, v), up), "cuda", 10)
            found[name] = f"{flops / f / 1e12:.0f}/{3.5 * flops / both / 1e12:.0f} TFLOP/s"
        except Exception as error:  # noqa: BLE001 - absent kernels are findings
            found[name] = f"{type(error).__name__}: {error}"[:120]
    return found


def check_step(o: Options) -> dict[str, Any]:
    """Losses and weights of a few steps against the CPU's in float32; bfloat16 beside them."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rng = torch.Generator().manual_seed(1)
    shape = SMALL if o.tiny else {**SMALL, "dim": 256, "num_layers": 4, "ffn_dim": 512}
    lengths = [packed_lengths(500, 20, 120, rng) for _ in range(2)]
    batches = [PROJECT.batch(PROJECT.sizes, lengths, 512, rng) for _ in range(5)]
    torch.manual_seed(0)
    start = PROJECT.module(PROJECT.sizes, shape, features={"image": 6}).state_dict()
    runs: dict[str, Any] = {}
    for name, device, bf16 in (
        ("cpu", "cpu", False),
        ("fp32", o.device, False),
        ("bf16", o.device, True),
    ):
        module = PROJECT.module(PROJECT.sizes, shape, features={"image": 6})
        module.load_state_dict(start)
        module.to(device)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        losses, masks = [], []
        for batch in batches:
            batch = PROJECT.to_device(batch, device)
            masks.append([x.cpu() for x in PROJECT.corrupted(module, batch)])
            with autocast(device, bf16):
                loss = module.training_step(batch, 0)
            loss.backward()
            if not losses:
                gradient = torch.cat(
                    [p.grad.flatten().cpu() for p in module.parameters() if p.grad is not None]
                )
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        runs[name] = losses, gradient, masks
    same = all(
        torch.equal(a, b)
        for x, y in zip(runs["cpu"][2], runs["fp32"][2], strict=True)
        for a, b in zip(x, y, strict=True)
    )
    apart = {
        n: max(abs(a / b - 1) for a, b in zip(runs[n][0], runs["cpu"][0], strict=True))
        for n in ("fp32", "bf16")
    }
    gradient = {n: relative(runs[n][1], runs["cpu"][1]) for n in ("fp32", "bf16")}
    ok = same and apart["fp32"] < 1e-5 and gradient["fp32"] < 1e-4 and apart["bf16"] < 2e-2
    return outcome(
        ok,
        f"masks {'equal' if same else 'DIFFER'}; loss apart fp32 {apart['fp32']:.1e}, bf16 {apart['bf16']:.1e}; gradient fp32 {gradient['fp32']:.1e}, bf16 {gradient['bf16']:.1e}",
        "equal; 1e-5, 2e-2; gradient fp32 1e-4",
        losses={n: r[0] for n, r in runs.items()},
        loss_apart=apart,
        gradient_apart=gradient,
    )


def check_sharding(o: Options) -> dict[str, Any]:
    """What the paper recipes' strategy makes of rotary tables, and whether a sharded step runs."""
    import torch
    import torch.distributed as dist

    path = o.root / PROJECT.recipe_folder / "paper/stage3.yaml"
    if not path.is_file():
        raise Unsupported(f"{path}")
    trainer = PROJECT.read(path)["trainer"]
    with tempfile.TemporaryDirectory() as folder:
        if o.device == "cuda":
            torch.cuda.set_device(0)
        dist.init_process_group(
            "nccl" if o.device == "cuda" else "gloo",
            init_method=f"file://{folder}/store",
            rank=0,
            world_size=1,
        )
        rng = torch.Generator().manual_seed(1)
        batch = PROJECT.to_device(
            PROJECT.batch(PROJECT.sizes, [packed_lengths(150, 20, 40, rng)], 160, rng), o.device
        )
        torch.manual_seed(0)
        module = PROJECT.module(PROJECT.sizes, {**SMALL, "qk_norm": False, "is_shifted": True})
        want = PROJECT.rotary_buffer(module).detach().double().clone()
        module.to(o.device)
        step = PROJECT.shard_one(
            module, trainer["strategy"], str(trainer.get("precision", "32-true")), o.device
        )
        with autocast(o.device):
            loss = step(batch)
        loss.backward()
        table = PROJECT.rotary_buffer(module)
        apart = relative(table, want.to(table.device))
        dtype = str(table.dtype)
        dist.destroy_process_group()
    turns = float((table.double().cpu() - want.cpu()).abs().max()) * 3071
    return outcome(
        apart < 1e-6 and math.isfinite(float(loss)),
        f"{trainer['strategy']['class_path'].rpartition('.')[2]}, rotary frequencies {dtype}, off by {apart:.1e}: {turns:.2f} rad at position 3071; loss {float(loss):.4f}",
        "float32, off by < 1e-6",
        dtype=dtype,
        apart=apart,
        radians=turns,
        loss=float(loss),
    )


def check_generation(o: Options) -> dict[str, Any]:
    """The bundled model answers as it does on the CPU, in float32, at the same seeds."""
    import numpy as np
    import torch
    from PIL import Image

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    draw = np.random.default_rng(0)
    wave = (draw.standard_normal(16000) * 0.1).astype(np.float32)
    picture = Image.fromarray((draw.random((64, 64, 3)) * 255).astype(np.uint8))
    asked: dict[str, dict[str, Any]] = {
        "tqa": {"text": "What is two plus two?"},
        "t2i": {"text": "a green whale"},
        "tts": {"text": "hello"},
        "asr": {"speech": wave},
        "caption": {"image": picture},
    }
    here, there = PROJECT.omni("cpu"), PROJECT.omni(o.device)
    found: dict[str, Any] = {}
    for task, given in asked.items():
        same, seconds = 0, []
        for seed in range(2 if o.tiny else 4):
            want = here.generate(task, seed=seed, precision="float32", **given)
            synchronize(o.device)
            start = time.perf_counter()
            got = there.generate(task, seed=seed, precision="float32", **given)
            synchronize(o.device)
            seconds.append(time.perf_counter() - start)
            equal = got.text == want.text
            if want.image is not None:
                equal &= (
                    float(
                        np.abs(np.asarray(got.image, float) - np.asarray(want.image, float)).mean()
                    )
                    < 1.0
                )
            if want.speech is not None:
                equal &= (
                    got.speech.shape == want.speech.shape
                    and float(np.abs(got.speech - want.speech).max()) < 1e-2
                )
            same += equal
        found[task] = {"equal": same, "of": len(seconds), "median_s": statistics.median(seconds)}
    share = sum(x["equal"] for x in found.values()) / sum(x["of"] for x in found.values())
    return outcome(
        share >= (0.9 if o.device == "cuda" else 1),
        f"{share:.0%} of answers as on the CPU; seconds { ({t: round(x['median_s'], 2) for t, x in found.items()}) }",
        "90 % of them (rounding may turn a tie)",
        **found,
    )
