"""Plan the training of a joint model on given devices: parameters, memory, arithmetic and time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from lightning_omni.data.omni_data import OmniData
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.flops import block_flops, training_flops
from lightning_omni.nn.recomputation import Recomputation
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.muon import MuonAdamW
from lightning_omni.optim.optimizer import build_optimizer, decay_groups
from lightning_omni.studies.memory_plan.device_load import DeviceLoad, OptimizerKind
from lightning_omni.studies.memory_plan.memory import estimate_device_memory, optimizer_bytes
from lightning_omni.studies.memory_plan.parameters import count_parameters_by_part
from lightning_omni.studies.memory_plan.settings import USABLE, PlanOptions, TrainerSettings
from lightning_omni.studies.memory_plan.step_time import TRANSFORMER, step_time

RECOMPUTATIONS: tuple[Recomputation, ...] = get_args(Recomputation)
_SUFFIXES = {"none": "", "selective": ", selective", "full": ", recomputed"}
MAX_DEVICES = 1024
"""Largest number of devices that an advice considers."""


def plan_joint_model(
    module: MaskedDiffusionModule, data: OmniData, trainer: TrainerSettings, options: PlanOptions
) -> dict[str, Any]:
    """Plan the training of a recipe, its module on the meta device.

    Raises:
        OmniError: If an option does not fit the recipe.
    """
    network = module.backbone
    load = DeviceLoad(
        data.rows * data.row_length,
        options.segment_length or data.row_length,
        options.masked_share,
        weights=trainer.weights,
        products=trainer.products,
        recomputation=network.recomputation,
        accumulates=trainer.accumulates > 1,
        optimizer=find_optimizer_kind(module),
        has_ema=trainer.has_ema,
        devices=options.devices or trainer.devices,
        is_sharded=trainer.is_sharded,
    )
    layouts = [
        replace(load, is_sharded=is_sharded, recomputation=recomputation)
        for is_sharded in (False, True)
        for recomputation in RECOMPUTATIONS
    ]
    memory = {
        _describe_layout(layout): estimate_device_memory(network, layout).in_gb()
        for layout in layouts
    }
    usable_gb = USABLE * options.memory_gb
    fits = memory[_describe_layout(load)]["peak"] <= usable_gb
    kinds: tuple[OptimizerKind, ...] = ("fused_adamw", "muon")
    return {
        "parameters": count_parameters_by_part(network),
        "devices": load.devices,
        "optimizer": load.optimizer,
        "optimizer_gb": {
            kind: optimizer_bytes(network, replace(load, optimizer=kind)) / 1e9 for kind in kinds
        },
        "memory_gb": memory,
        "recipe_is": _describe_layout(load),
        "usable_gb": usable_gb,
        "fits": fits,
        "advice": "" if fits else _smallest_fitting_change(network, load, usable_gb),
        **_plan_time(module, load, trainer, options),
    }


def find_optimizer_kind(module: MaskedDiffusionModule) -> OptimizerKind:
    """Return the optimizer of a recipe; an unknown one counts as AdamW."""
    groups = decay_groups(module.backbone, module.weight_decay)
    optimizer = build_optimizer(module.optimizer_factory, groups)
    if isinstance(optimizer, MuonAdamW):
        return "muon"
    return "fused_adamw" if optimizer.defaults.get("fused") else "adamw"


def _plan_time(
    module: MaskedDiffusionModule, load: DeviceLoad, trainer: TrainerSettings, options: PlanOptions
) -> dict[str, Any]:
    """Return the arithmetic of a step on all devices, and the time of the training."""
    batches = trainer.accumulates * load.devices
    flops = training_flops(module.backbone, load.segment_lengths, load.num_masked)
    forward = block_flops(module.backbone, load.segment_lengths, load.num_masked) // 3
    spent = flops + (forward if load.recomputation == "full" else 0)
    steps = trainer.max_steps if trainer.max_steps > 0 else module.total_steps
    time = step_time(spent * trainer.accumulates, options, TRANSFORMER)
    return {
        "tokens_per_step": load.tokens * batches,
        "flops_per_step": flops * batches,
        "flops_with_recomputation": spent * batches,
        "seconds_per_step": time.seconds,
        "time_from": time.source,
        "steps": steps,
        "days": time.seconds * steps / 86_400,
        "gpu_days": time.seconds * steps * load.devices / 86_400,
    }


def _smallest_fitting_change(network: Transformer, load: DeviceLoad, usable_gb: float) -> str:
    """Return the smallest change that fits, in words."""
    tried = [replace(load, recomputation=each) for each in RECOMPUTATIONS]
    candidates = [] if load.is_sharded else tried[1:]
    devices = load.devices
    while devices <= max(load.devices, MAX_DEVICES):
        candidates += [replace(each, is_sharded=True, devices=devices) for each in tried]
        devices = 1 << devices.bit_length()
    for candidate in candidates:
        if estimate_device_memory(network, candidate).peak / 1e9 <= usable_gb:
            return ", ".join(_needed_changes(load, candidate))
    return "take shorter or fewer rows, a smaller backbone or GPUs with more memory"


def _needed_changes(load: DeviceLoad, candidate: DeviceLoad) -> list[str]:
    changes = {
        "share the model with FSDP": candidate.is_sharded != load.is_sharded,
        f"set model.recompute_activations: {candidate.recomputation}": (
            candidate.recomputation != load.recomputation
        ),
        f"take {candidate.devices} devices": candidate.devices != load.devices,
    }
    return [change for change, is_needed in changes.items() if is_needed]


def _describe_layout(load: DeviceLoad) -> str:
    layout = "sharded" if load.is_sharded else "replicated"
    return layout + _SUFFIXES[load.recomputation]
