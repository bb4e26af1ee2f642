"""Plan the training of a tokenizer: its step is run on the meta device, where it costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightning_omni.data.image_data import ImageData
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.losses.adversarial import feature_matching, hinge_generator
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule
from lightning_omni.studies.memory_plan.live_memory import LiveMemory
from lightning_omni.studies.memory_plan.parameters import count_parameters
from lightning_omni.studies.memory_plan.settings import USABLE, PlanOptions, TrainerSettings
from lightning_omni.studies.memory_plan.step_time import (
    IMAGE_TOKENIZER,
    SPEECH_TOKENIZER,
    step_time,
)

TokenizerModule = ImageTokenizerModule | SpeechTokenizerModule
_FLOAT32 = 4  # bytes


def plan_tokenizer(
    module: TokenizerModule,
    data: ImageData | SpeechData,
    trainer: TrainerSettings,
    options: PlanOptions,
) -> dict[str, Any]:
    """Plan the training of a tokenizer's recipe, its module on the meta device.

    Products are counted and tensors followed while an update runs, with the critic where there is
    one; all numbers are taken as float32, the most they can be. Workspaces of kernels are left out.
    """
    parts = {
        name: count_parameters(getattr(module, name, None))
        for name in ("discriminator", "perceptual")
    }
    parts = {
        "tokenizer": count_parameters(module.tokenizer),
        **{k: n for k, n in parts.items() if n},
    }
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    flops, held = _measure_update_cost(module, data)
    devices = options.devices or trainer.devices
    memory = {
        strategy: _device_memory_gb(sum(parts.values()), trained, held, devices, strategy)
        for strategy in ("single", "ddp", "fsdp2")
    }
    used = "fsdp2" if trainer.is_sharded else "ddp" if devices > 1 else "single"
    is_image = isinstance(module, ImageTokenizerModule)
    time = step_time(flops, options, IMAGE_TOKENIZER if is_image else SPEECH_TOKENIZER)
    return {
        "parameters": {**parts, "total": sum(parts.values())},
        "devices": devices,
        "samples_per_step": data.batch_size * devices,
        "flops_per_step": flops * devices,
        "seconds_per_step": time.seconds,
        "time_from": time.source,
        "steps": module.total_steps,
        "days": time.seconds * module.total_steps / 86_400,
        "gpu_days": time.seconds * module.total_steps * devices / 86_400,
        "memory_gb": memory,
        "recipe_is": used,
        "usable_gb": USABLE * options.memory_gb,
        "fits": memory[used]["peak"] <= USABLE * options.memory_gb,
        "advice": "take a smaller batch or GPUs with more memory",
    }


def _measure_update_cost(module: TokenizerModule, data: ImageData | SpeechData) -> tuple[int, int]:
    """Return the FLOP of an update on one device, and the most bytes it holds beside the weights.

    Gradients are among them.
    """
    counter = FlopCounterMode(display=False)
    memory = LiveMemory([*module.parameters(), *module.buffers()])
    critic: Any = module.discriminator
    with memory, counter:
        real, rebuilt, loss = _run_forward(module, data)
        if critic is not None:
            critic.requires_grad_(False)  # as an optimizer is toggled: its gradients are dropped
        torch.autograd.backward(loss)
        del loss
        if critic is not None:
            critic.requires_grad_(True)
            scores = _critic_loss(critic(real)) + _critic_loss(critic(rebuilt.detach()))
            torch.autograd.backward(scores)
            del scores
    module.zero_grad()
    return counter.get_total_flops(), memory.peak


def _run_forward(
    module: TokenizerModule, data: ImageData | SpeechData
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input, its reconstruction and the loss, the critic's included."""
    if isinstance(module, ImageTokenizerModule) and isinstance(data, ImageData):
        size = data.batch_size, 3, data.image_size, data.image_size
        real = torch.empty(size, device="meta")
        quantized = module.tokenizer.quantize(real)
        rebuilt = module.tokenizer.reconstruct(quantized.latents)
        terms = [*module._loss_terms(real, rebuilt, quantized).values()]
        if module.discriminator is not None:
            terms.append(_critic_loss(module.discriminator(rebuilt)))
        return real, rebuilt, torch.stack(terms).sum()
    assert isinstance(data, SpeechData)  # noqa: S101
    assert isinstance(module, SpeechTokenizerModule)  # noqa: S101
    real = torch.empty(data.batch_size, data.crop, device="meta")
    latents, commitment = _quantize(module, module.tokenizer.encoder(real))
    rebuilt, mel = module.tokenizer.decoder(latents)
    loss = module.spectral(rebuilt, real, rng=torch.Generator().manual_seed(0)) + commitment
    if mel is not None:
        loss = loss + (mel - module.log_mel(real)).abs().mean()
    if module.discriminator is not None:
        scores, fake = module.discriminator(rebuilt)
        features = feature_matching(module.discriminator(real)[1], fake)
        loss = loss + _critic_loss((scores, fake)) + features
    return real, rebuilt, loss


def _quantize(module: SpeechTokenizerModule, z: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize with all codebooks, as if they had been initialised."""
    quantizer = module.tokenizer.quantizer
    for layer in quantizer.layers.layers:
        layer._codebook.inited = torch.ones(1)  # is read, which the meta device has no values for
    quantized = quantizer(z, num_codebooks=quantizer.num_codebooks)
    return quantized.latents, quantized.commitment


def _critic_loss(scores: Any) -> Tensor:
    """Return a loss of a critic's scores: a map, or those of several scales and their features."""
    several = scores[0] if isinstance(scores, tuple) else [scores]
    return torch.stack([hinge_generator(one) for one in several]).sum()


def _device_memory_gb(
    parameters: int, trained: int, held: int, devices: int, strategy: str
) -> dict[str, float]:
    """Return the memory of one device in 10^9 bytes; FSDP2 gathers the whole network for a pass.

    Args:
        parameters: Number of parameters of all networks.
        trained: Number of those that are trained.
        held: The most bytes that an update holds beside the weights.
        devices: Number of devices.
        strategy: `single`, `ddp` or `fsdp2`.
    """
    shards = devices if strategy == "fsdp2" else 1
    whole = trained * _FLOAT32
    fixed = (parameters - trained) * _FLOAT32
    row = {
        "weights": fixed + whole / shards,
        "gradients": whole / shards,
        "optimizer": 2 * whole / shards,
        "exchange": whole if devices > 1 and strategy != "single" else 0,
        "activations": max(0, held - whole),  # what is held beyond gradients at the peak
    }
    return {name: n / 1e9 for name, n in {**row, "peak": sum(row.values())}.items()}
