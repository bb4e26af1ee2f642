"""What a training of the joint model costs on given devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import check_within
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.flops import block_flops, training_flops
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.optim.schedule import build_optimizer, decay_groups
from lightning_omni.studies.memory_plan.load import Load
from lightning_omni.studies.memory_plan.memory import (
    Memory,
    OptimizerKind,
    optimizer_bytes,
    replicated,
    sharded,
)
from lightning_omni.studies.memory_plan.settings import TrainerSettings

USABLE = 0.9
"""Share of a device's memory that a plan may fill; its context and fragments take the rest."""
MOST_DOUBLINGS = 10
"""Advice goes up to 1,024 devices."""
_ADAMW = "take AdamW, as Muon needs whole matrices"
_Way = Callable[..., Memory]
WAYS: dict[str, _Way] = {"replicated": replicated, "sharded": sharded}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of the verb `plan` beside those of a recipe.

    Args:
        devices: GPUs on all nodes; None for the recipe's number.
        gpu_memory_gb: Memory of one, in 10^9 bytes.
        gpu_tflops: What one computes at best in the recipe's format, in 10^12 FLOP/s.
        utilisation: Share of that which training reaches.
        segment_length: Tokens of a sample; None for samples as long as a row, the costliest case.
        masked_share: Share of the tokens that have a loss.
        out: JSON file for the plan; None writes none.
    """

    devices: int | None = None
    gpu_memory_gb: float = 80.0
    gpu_tflops: float = 400.0
    utilisation: float = 0.4
    segment_length: int | None = None
    masked_share: float = 0.25
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.devices is not None:
            check_within("devices", self.devices, 1)
        check_within("gpu_memory_gb", self.gpu_memory_gb, 1)
        check_within("gpu_tflops", self.gpu_tflops, 1)
        check_within("utilisation", self.utilisation, 0.01, 1)


def make_plan(
    module: MaskedDiffusionModule, data: OmniData, trainer: TrainerSettings, options: PlanOptions
) -> dict[str, Any]:
    """Plan the training of a recipe, its module being on the meta device.

    Raises:
        OmniError: If an option does not fit the recipe.
    """
    network, devices = module.backbone, options.devices or trainer.devices
    load = Load(
        data.rows * data.row_length,
        options.segment_length or data.row_length,
        options.masked_share,
        weights=trainer.weights,
        products=trainer.products,
        recomputes=network.recomputes,
        accumulates=trainer.accumulates > 1,
    )
    kind = optimizer_kind(module)
    memory = {
        f"{way}{', recomputed' if recomputes else ''}": WAYS[way](
            network,
            replace(load, recomputes=recomputes),
            kind,
            has_ema=trainer.has_ema,
            devices=devices,
        ).in_gb()
        for way in WAYS
        for recomputes in (False, True)
    }
    chosen = _name(trainer.is_sharded, load.recomputes)
    room = USABLE * options.gpu_memory_gb
    fits = memory[chosen]["peak"] <= room and not (trainer.is_sharded and kind == "muon")
    return {
        "parameters": parameters(network),
        "devices": devices,
        "optimizer": kind,
        "optimizer_gb": {
            k: optimizer_bytes(network, k, load) / 1e9 for k in ("fused_adamw", "muon")
        },
        "memory_gb": memory,
        "recipe_is": chosen,
        "usable_gb": room,
        "fits": fits,
        "advice": "" if fits else _advice(network, load, kind, trainer, room, devices),
        **_time(module, load, trainer, options, devices),
    }


def parameters(network: Transformer) -> dict[str, int]:
    """Numbers of parameters by part; a tied head has none of its own, few have a projector."""
    embedding = network.embedding
    is_tied = embedding.head.weight is embedding.tokens.weight
    parts = {
        "embedding": embedding.tokens.weight.numel(),
        "head": 0 if is_tied else embedding.head.weight.numel(),
        "blocks": sum(p.numel() for p in network.blocks.parameters()),
    }
    if network.feature_projector is not None:
        parts["projector"] = sum(p.numel() for p in network.feature_projector.parameters())
    total = sum(p.numel() for p in network.parameters())
    return {**parts, "other": total - sum(parts.values()), "total": total}


def optimizer_kind(module: MaskedDiffusionModule) -> OptimizerKind:
    """Which optimizer a recipe trains with; one we do not know counts as AdamW."""
    groups = decay_groups(module.backbone, module.weight_decay)
    optimizer = build_optimizer(module.optimizer_factory, groups)
    if isinstance(optimizer, MuonAdamW):
        return "muon"
    return "fused_adamw" if optimizer.defaults.get("fused") else "adamw"


def _time(
    module: MaskedDiffusionModule,
    load: Load,
    trainer: TrainerSettings,
    options: PlanOptions,
    devices: int,
) -> dict[str, Any]:
    """Arithmetic of a step on all devices, and what it takes."""
    batches = trainer.accumulates * devices
    flops = training_flops(module.backbone, load.lengths, load.masked)
    again = block_flops(module.backbone, load.lengths, load.masked) // 3  # the forward pass
    spent = flops + (again if load.recomputes else 0)
    rate = options.gpu_tflops * 1e12 * options.utilisation
    steps = trainer.max_steps if trainer.max_steps > 0 else module.total_steps
    seconds = spent * trainer.accumulates / rate
    return {
        "tokens_per_step": load.tokens * batches,
        "flops_per_step": flops * batches,
        "flops_with_recomputation": spent * batches,
        "seconds_per_step": seconds,
        "steps": steps,
        "days": seconds * steps / 86_400,
    }


def _name(is_sharded: bool, recomputes: bool) -> str:
    return f"{'sharded' if is_sharded else 'replicated'}{', recomputed' if recomputes else ''}"


def _advice(
    network: Transformer,
    load: Load,
    kind: OptimizerKind,
    trainer: TrainerSettings,
    room: float,
    devices: int,
) -> str:
    """The least change that fits."""
    recomputed = replace(load, recomputes=True)
    with_adamw: OptimizerKind = "fused_adamw" if kind == "muon" else kind
    share = [] if trainer.is_sharded else ["share the model with FSDP"]
    recompute = [] if load.recomputes else ["set model.recompute_activations: true"]
    tries: list[tuple[str, list[str], Load, OptimizerKind, int]] = []
    if not trainer.is_sharded:
        tries.append(("replicated", recompute, recomputed, kind, devices))
    counts = [devices, *(2**n for n in range(MOST_DOUBLINGS + 1) if 2**n > devices)]
    for on in counts:
        more = [f"take {on} devices"] if on != devices else []
        tries.append(("sharded", [*share, *more], load, with_adamw, on))
        tries.append(("sharded", [*share, *recompute, *more], recomputed, with_adamw, on))
    for way, changes, changed, with_kind, on in tries:
        found = WAYS[way](network, changed, with_kind, has_ema=trainer.has_ema, devices=on)
        if found.peak / 1e9 <= room:
            needs_adamw = [_ADAMW] if way == "sharded" and kind == "muon" else []
            return ", ".join((*changes, *needs_adamw))
    return "take shorter or fewer rows, a smaller backbone or GPUs with more memory"
