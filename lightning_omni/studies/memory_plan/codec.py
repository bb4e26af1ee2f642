"""Plan the training of a tokenizer: its step is run on the meta device, where it costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_omni.data.image_data import ImageData
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.losses.adversarial import hinge_generator
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule
from lightning_omni.studies.memory_plan.settings import USABLE, PlanOptions, TrainerSettings

TokenizerModule = ImageTokenizerModule | SpeechTokenizerModule
_FLOAT32 = 4  # bytes


def plan_tokenizer(
    module: TokenizerModule,
    data: ImageData | SpeechData,
    trainer: TrainerSettings,
    options: PlanOptions,
) -> dict[str, Any]:
    """Plan the training of a tokenizer's recipe, its module on the meta device.

    Products and what is kept for the backward pass are counted while an update runs, with the
    critic where there is one; all numbers are taken as float32, the most they can be.
    """
    parts = {name: _size(getattr(module, name, None)) for name in ("discriminator", "perceptual")}
    parts = {"tokenizer": _size(module.tokenizer), **{k: n for k, n in parts.items() if n}}
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    flops, activations = _update_cost(module, data)
    devices = options.devices or trainer.devices
    memory = {
        strategy: _memory(sum(parts.values()), trained, activations, devices, strategy)
        for strategy in ("single", "ddp", "fsdp2")
    }
    used = "fsdp2" if trainer.is_sharded else "ddp" if devices > 1 else "single"
    seconds = flops / options.rate
    return {
        "parameters": {**parts, "total": sum(parts.values())},
        "devices": devices,
        "samples_per_step": data.batch_size * devices,
        "flops_per_step": flops * devices,
        "seconds_per_step": seconds,
        "steps": module.total_steps,
        "days": seconds * module.total_steps / 86_400,
        "gpu_days": seconds * module.total_steps * devices / 86_400,
        "memory_gb": memory,
        "recipe_is": used,
        "usable_gb": USABLE * options.memory_gb,
        "fits": memory[used]["peak"] <= USABLE * options.memory_gb,
        "advice": "take a smaller batch or GPUs with more memory",
    }


def _update_cost(module: TokenizerModule, data: ImageData | SpeechData) -> tuple[int, int]:
    """Return the FLOP of an update on one device, and the bytes kept for the backward pass."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return value

    critic: Any = module.discriminator
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            real, rebuilt, loss = _forward(module, data)
            if critic is not None:
                loss = loss + _score(critic(rebuilt))
        torch.autograd.backward(loss)
        if critic is not None:
            scores = _score(critic(real)) + _score(critic(rebuilt.detach()))
            torch.autograd.backward(scores)
    module.zero_grad()
    return counter.get_total_flops(), sum(kept.values())


def _forward(
    module: TokenizerModule, data: ImageData | SpeechData
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input, its reconstruction and the loss without the critic's."""
    if isinstance(module, ImageTokenizerModule) and isinstance(data, ImageData):
        real = torch.empty(data.batch_size, 3, data.image_size, data.image_size)
        quantized = module.tokenizer.quantize(real)
        rebuilt = module.tokenizer.reconstruct(quantized.latents)
        terms = module._loss_terms(real, rebuilt, quantized)
        return real, rebuilt, torch.stack(list(terms.values())).sum()
    assert isinstance(data, SpeechData)  # noqa: S101
    real = torch.empty(data.batch_size, data.crop)
    rebuilt, _ = module.tokenizer.decoder(module.tokenizer.encoder(real))
    rebuilt = rebuilt[:, : data.crop]
    return real, rebuilt, (rebuilt - real).abs().mean()  # transforms cost hardly anything


def _score(scores: Any) -> Tensor:
    """Return a loss of a critic's scores: a map, or those of several scales and their features."""
    several = scores[0] if isinstance(scores, tuple) else [scores]
    return torch.stack([hinge_generator(one) for one in several]).sum()


def _memory(
    parameters: int, trained: int, activations: int, devices: int, strategy: str
) -> dict[str, float]:
    """Return the memory of one device in 10^9 bytes; FSDP2 gathers the whole network for a pass."""
    shards = devices if strategy == "fsdp2" else 1
    whole = trained * _FLOAT32
    fixed = (parameters - trained) * _FLOAT32
    row = {
        "weights": fixed + whole / shards,
        "gradients": whole / shards,
        "optimizer": 2 * whole / shards,
        "exchange": whole if devices > 1 and strategy != "single" else 0,
        "activations": activations,
    }
    return {name: n / 1e9 for name, n in {**row, "peak": sum(row.values())}.items()}


def _size(network: nn.Module | None) -> int:
    return 0 if network is None else sum(p.numel() for p in network.parameters())
