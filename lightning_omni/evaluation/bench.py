"""The `bench` verb: how fast this machine trains and samples, beside its own matrix products."""

from __future__ import annotations

import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_omni.arguments import check_within
from lightning_omni.diffusion.objective import weighted_nll
from lightning_omni.files import make_room_for
from lightning_omni.nn.attention import SegmentLayout, attention_backend
from lightning_omni.nn.transformer import Transformer
from lightning_omni.samplers.base import Canvas, LogitsAt, fill
from lightning_omni.samplers.confidence import Confidence

log = logging.getLogger(__name__)


def bench(
    out: Path = Path("runs/bench.json"),
    dim: int = 384,
    num_layers: int = 6,
    vocab_size: int = 20_000,
    num_segments: int = 16,
    segment_length: int = 128,
    answer_length: int = 64,
    steps: int = 16,
    repeats: int = 3,
    seed: int = 0,
) -> None:
    """Measure matrix products, training steps and sampling on random data.

    Args:
        out: JSON file with the numbers.
        dim: Width of the model; heads have 64 channels.
        num_layers: Blocks.
        vocab_size: Ids.
        num_segments: Samples packed into a training step.
        segment_length: Tokens of each.
        answer_length: Tokens filled when sampling, behind a prompt of the same length.
        steps: Denoising steps.
        repeats: Timed repetitions after one to warm up; medians are reported.
        seed: Of weights and data.
    """
    for name in ("num_layers", "num_segments", "segment_length", "answer_length", "steps"):
        check_within(name, locals()[name], 1)
    check_within("repeats", repeats, 1)
    check_within("seed", seed, 0)
    check_within("vocab_size", vocab_size, 3)
    check_within("dim", dim, 64)
    make_room_for(out)
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Transformer(
        vocab_size,
        [],
        dim=dim,
        num_layers=num_layers,
        num_heads=dim // 64,
        num_kv_heads=dim // 64,
        ffn_dim=dim * 8 // 3,
        rope_theta=1e4,
        rope_sections=None,
        qkv_bias=False,
        qk_norm=True,
        tie_embeddings=False,
    )
    lengths = [segment_length] * num_segments
    train = _timed(lambda: _train_step(model, lengths, vocab_size, rng), repeats)
    sample = _timed(lambda: _sample(model, answer_length, vocab_size, steps, rng), repeats)
    tokens = num_segments * segment_length
    parameters = sum(p.numel() for p in model.blocks.parameters())
    gflop = 6 * parameters * tokens / 1e9 + 3 * tokens * dim * vocab_size / 1e9
    gemm = {str(d): _gemm_rate(d, dim, repeats) for d in (torch.float32, torch.bfloat16)}
    numbers: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "attention_backend": attention_backend("cpu"),
        "gemm_gflops_per_s": gemm,
        "train_step_s": train,
        "train_tokens_per_s": tokens / train["median"],
        "train_share_of_fp32_gemm": gflop / train["median"] / gemm["torch.float32"],
        "sample_s": sample,
        "sample_forwards": steps,
    }
    out.write_text(json.dumps(numbers, indent=2) + "\n")
    for name, value in numbers.items():
        log.info("%s: %s", name, value)
    log.info("wrote %s", out)


def _train_step(
    model: Transformer, lengths: list[int], vocab_size: int, rng: torch.Generator
) -> None:
    """Forward and backward with loss at half of the positions."""
    ids = torch.randint(0, vocab_size - 1, (sum(lengths),), generator=rng)
    hidden = model(ids, _places(lengths), SegmentLayout.of(lengths, device="cpu"))
    table, x0 = model.embedding.table(), ids[::2]
    loss, _ = weighted_nll(
        hidden[::2], table, x0, torch.ones(len(x0)) / len(x0), mask_token_id=vocab_size - 1
    )
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]


@torch.inference_mode()
def _sample(
    model: Transformer, answer: int, vocab_size: int, steps: int, rng: torch.Generator
) -> None:
    """Fill `answer` masks behind a prompt of the same length."""
    mask = vocab_size - 1
    prompt = torch.randint(0, mask, (answer,), generator=rng)
    ids = torch.cat((prompt, torch.full((answer,), mask)))
    hole = torch.tensor([-1] * answer + [0] * answer)
    canvas = Canvas(
        ids=ids,
        sample=torch.zeros(2 * answer, dtype=torch.long),
        hole=hole,
        grammar=hole,
        allowed=(torch.arange(mask),),
        num_steps=torch.tensor([[steps]]),
        mask_token_id=mask,
    )
    layout, places = SegmentLayout.of([2 * answer], device="cpu"), _places([2 * answer])

    def denoise(now: Tensor) -> LogitsAt:
        hidden = model(now, places, layout)
        return lambda where, allowed: model.logits(hidden[where], allowed)

    fill(denoise, canvas, Confidence(), rng=rng)


def _gemm_rate(dtype: torch.dtype, dim: int, repeats: int) -> float:
    """GFLOP/s of (2048, dim) @ (dim, 4 dim)."""
    a, b = torch.randn(2048, dim).to(dtype), torch.randn(dim, 4 * dim).to(dtype)
    seconds = _timed(lambda: [a @ b for _ in range(10)], repeats)["median"]
    return 10 * 2 * 2048 * dim * 4 * dim / seconds / 1e9


def _timed(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Seconds of a call: median, least and most of `repeats`, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def _places(lengths: list[int]) -> Tensor:
    index = torch.cat([torch.arange(n) for n in lengths])
    return torch.stack((index, index * 0, index * 0), dim=1)
