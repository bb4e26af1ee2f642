"""Training steps of this package and of the peer, on the same weights, samples and masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_omni.diffusion.objective import weighted_nll
from lightning_omni.errors import OmniError
from lightning_omni.nn.transformer import Transformer
from lightning_omni.studies.bench import transformers_peer as peers
from lightning_omni.studies.bench.machine import measure_gemm_rate
from lightning_omni.studies.bench.timing import paired_ratio, synchronize, time_alternating
from lightning_omni.studies.bench.workload import (
    Samples,
    Shape,
    count_useful_gflop,
    make_network,
    make_position_ids,
    make_samples,
)

SIDES = ("ours", *peers.LOSSES)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest relative difference of the losses; the peer also gives the mask token probability."""


def our_loss(network: Transformer, samples: Samples, shape: Shape) -> Tensor:
    """Return the mean negative log-likelihood of the masked tokens."""
    device = samples.x0.device
    hidden = network(
        samples.x_t,
        make_position_ids(samples.lengths, device=device),
        samples.segment_layout,
        positions=samples.masked,
    )
    weight = torch.full((len(samples.masked),), 1 / len(samples.masked), device=device)
    total, _ = weighted_nll(
        hidden,
        network.embedding.output_embedding(),
        samples.x0[samples.masked],
        weight,
        mask_token_id=shape.mask_token_id,
    )
    return total


def compare_training(
    shape: Shape, *, dtype: torch.dtype, repeats: int, seed: int
) -> dict[str, Any]:
    """Time training steps: forward, backward, AdamW.

    Raises:
        OmniError: If the losses of both sides disagree.
    """
    network = make_network(shape, seed=seed)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(seed))
    peer = peers.make_peer(network, shape)
    batch = peers.pad_samples(samples, shape)
    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: our_loss(network, samples, shape),
        **{side: partial(loss, peer, *batch) for side, loss in peers.LOSSES.items()},
    }
    first = {name: _evaluate_loss(loss, dtype, shape.device) for name, loss in losses.items()}
    for side in peers.LOSSES:
        if abs(first["ours"] / first[side] - 1) > TOLERANCE[dtype]:
            raise OmniError(
                f"the losses disagree: ours {first['ours']:.6f}, {side} {first[side]:.6f}; no "
                "times are reported"
            )
    steps = {"ours": _make_adamw_step(network, losses["ours"], dtype, shape.device, fused=True)}
    for side in peers.LOSSES:
        steps[side] = _make_adamw_step(peer, losses[side], dtype, shape.device, fused=False)
    timings = time_alternating(steps, repeats=repeats)
    times, noise = paired_ratio(timings["peer"], timings["ours"])
    times_dllm, noise_dllm = paired_ratio(timings["dllm"], timings["ours"])
    gflop, useful = count_useful_gflop(network, samples), sum(samples.lengths)
    rate = measure_gemm_rate(
        dtype,
        rows=2048,
        dim=shape.dim,
        columns=4 * shape.dim,
        device=shape.device,
        repeats=repeats,
    )
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": shape.vocab_size,
        "samples": len(samples.lengths),
        "useful_tokens": useful,
        "padded_tokens": batch[0].numel(),
        "loss": first,
        "step_s": {name: timing.to_json() for name, timing in timings.items()},
        "useful_tokens_per_s": {n: useful / t.median for n, t in timings.items()},
        "ratio": times,
        "ratio_spread": noise,
        "ratio_to_dllm": times_dllm,
        "ratio_to_dllm_spread": noise_dllm,
        "useful_gflop": gflop,
        "gemm_gflops_per_s": rate,
        "share_of_gemm": gflop / timings["ours"].median / rate,
    }


def make_training_step(
    side: str, shape: Shape, *, dtype: torch.dtype, seed: int
) -> Callable[[], None]:
    """Return a training step of `ours`, `peer` or `dllm`, with only that network in memory."""
    network = make_network(shape, seed=seed)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(seed))
    if side == "ours":
        loss = partial(our_loss, network, samples, shape)
        return _make_adamw_step(network, loss, dtype, shape.device, fused=True)
    peer = peers.make_peer(network, shape)
    batch = peers.pad_samples(samples, shape)
    del network
    loss = partial(peers.LOSSES[side], peer, *batch)
    return _make_adamw_step(peer, loss, dtype, shape.device, fused=False)


def describe_row(row: dict[str, Any]) -> str:
    """Return one row in words."""
    rate = row["useful_tokens_per_s"]
    memory = row.get("peak_mb")
    held = (
        f"; peak memory {', '.join(f'{n} {mb:.0f} MB' for n, mb in memory.items())}"
        if memory
        else ""
    )
    return (
        f"{row['vocab_size']} ids, {row['dtype']}: ours {rate['ours']:.0f} useful tokens/s, peer "
        f"{rate['peer']:.0f}, {row['ratio']:.2f} times (+- {row['ratio_spread']:.2f}), dllm's way "
        f"{row['ratio_to_dllm']:.2f} times (+- {row['ratio_to_dllm_spread']:.2f}); "
        f"{row['share_of_gemm']:.0%} of the machine's products{held}"
    )


def _autocast(dtype: torch.dtype, device: str) -> AbstractContextManager[object]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


@torch.no_grad()
def _evaluate_loss(loss: Callable[[], Tensor], dtype: torch.dtype, device: str) -> float:
    with _autocast(dtype, device):
        return float(loss())


def _make_adamw_step(
    module: torch.nn.Module,
    loss: Callable[[], Tensor],
    dtype: torch.dtype,
    device: str,
    *,
    fused: bool,
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=fused or None)

    def step() -> None:
        with _autocast(dtype, device):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)

    return step
