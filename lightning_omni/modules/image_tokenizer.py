"""Trains the image tokenizer: reconstruction, perceptual and adversarial loss, codebook use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lightning_omni.losses.adversarial import hinge_discriminator, hinge_generator
from lightning_omni.losses.perceptual import TimmPerceptual
from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.modules.replicas import average_gradients, own_gradient_sync
from lightning_omni.modules.sharding import ShardedByParts
from lightning_omni.nn.codec.discriminators import PatchDiscriminator
from lightning_omni.optim.schedule import (
    OptimizerFactory,
    build_optimizer,
    check_schedule,
    decay_groups,
    warmup_cosine,
)
from lightning_omni.tokenizers.image import ImageTokenizer


class ImageTokenizerModule(ShardedByParts):
    """Autoencoder training with lookup-free quantization.

    Args:
        tokenizer: The network to train.
        optimizer: Builds the optimizers of the tokenizer and of the discriminator.
        weight_decay: Weight decay of matrices.
        warmup_steps: Steps of linear warm-up of the learning rate.
        total_steps: Step at which its cosine ends.
        final_lr_share: Share of the learning rate at that step.
        l1_weight: Weight of the mean absolute error.
        l2_weight: Weight of the mean squared error.
        commitment_weight: Weight of the distance between latents and their signs.
        entropy_weight: Weight of sample entropy minus batch entropy.
        perceptual: Feature distance; None for none.
        perceptual_weight: Weight of the feature distance.
        discriminator: Discriminator of images; None for none.
        adversarial_weight: Weight of the adversarial loss.
        adversarial_start: Step at which the adversarial loss begins.

    Source: MAGVIT-v2, arXiv:2310.05737; VQGAN, arXiv:2012.09841 (discriminator).
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        optimizer: OptimizerFactory,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        final_lr_share: float,
        l1_weight: float,
        l2_weight: float,
        commitment_weight: float,
        entropy_weight: float,
        perceptual: TimmPerceptual | None = None,
        perceptual_weight: float = 0.0,
        discriminator: PatchDiscriminator | None = None,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 0,
    ) -> None:
        super().__init__()
        check_schedule(warmup_steps, total_steps, final_lr_share, weight_decay)
        self.automatic_optimization = False
        self.tokenizer = tokenizer
        self.perceptual, self.discriminator = perceptual, discriminator
        self.optimizer_factory, self.weight_decay = optimizer, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.final_lr_share = final_lr_share
        self.l1_weight, self.l2_weight = l1_weight, l2_weight
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.use = CodebookUse(tokenizer.num_codes)
        self.train_use = CodebookUse(tokenizer.num_codes)
        self.psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))
        self.ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.updates = 0

    def training_step(self, images: Tensor, batch_idx: int) -> None:
        """Update the tokenizer, and the discriminator once the adversarial loss has begun."""
        with own_gradient_sync(self):
            self._update(images)

    def _update(self, images: Tensor) -> None:
        optimizers: Any = self.optimizers()
        schedules: Any = self.lr_schedulers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        schedules = schedules if isinstance(schedules, list) else [schedules]
        quantized = self.tokenizer.quantize(images)
        rebuilt = self.tokenizer.reconstruct(quantized.latents)
        terms = self._loss_terms(images, rebuilt, quantized)
        is_adversarial = self.discriminator is not None and self.updates >= self.adversarial_start
        if is_adversarial and self.discriminator is not None:
            terms["adversarial"] = self.adversarial_weight * hinge_generator(
                self.discriminator(rebuilt)
            )
        self._optimizer_step(optimizers[0], schedules[0], torch.stack(list(terms.values())).sum())
        if is_adversarial and self.discriminator is not None:
            real, fake = self.discriminator(images), self.discriminator(rebuilt.detach())
            self._optimizer_step(optimizers[1], schedules[1], hinge_discriminator(real, fake))
        self.updates += 1
        self.train_use.update(quantized.codes)
        self._log_training(terms, quantized, len(images))

    def validation_step(self, images: Tensor, batch_idx: int) -> None:
        """Measure reconstruction and codebook use."""
        quantized = self.tokenizer.quantize(images)
        rebuilt = self.tokenizer.reconstruct(quantized.latents).float().clamp(-1, 1)
        self.psnr.update(rebuilt, images)
        self.ssim.update(rebuilt, images)
        self.use.update(quantized.codes)

    def on_validation_epoch_end(self) -> None:
        """Log PSNR in dB, SSIM and codebook use."""
        psnr, ssim = self.psnr.compute(), self.ssim.compute()
        self.log("tokenizer/image/psnr_db", psnr, prog_bar=True)
        self.log("tokenizer/image/ssim", ssim if isinstance(ssim, Tensor) else ssim[0])
        for name, value in self.use.compute().items():
            self.log(f"tokenizer/image/{name}", value, prog_bar=name == "usage")
        for metric in (self.psnr, self.ssim, self.use):
            metric.reset()

    def configure_optimizers(self) -> Any:
        """Build an optimizer for the tokenizer, and one for the discriminator if there is one."""
        networks = [self.tokenizer, self.discriminator]
        pairs = []
        for network in networks:
            if network is not None:
                groups = decay_groups(network, self.weight_decay)
                optimizer = build_optimizer(self.optimizer_factory, groups)
                pairs.append((optimizer, self._schedule(optimizer)))
        return [o for o, _ in pairs], [s for _, s in pairs]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of updates; with a discriminator `global_step` counts both optimizers."""
        checkpoint["updates"] = self.updates

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self.updates = checkpoint["updates"]

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return warmup_cosine(
            optimizer,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
            final_share=self.final_lr_share,
        )

    def _loss_terms(self, images: Tensor, rebuilt: Tensor, quantized: Any) -> dict[str, Tensor]:
        """Return the weighted terms of the loss."""
        entropy = quantized.sample_entropy - quantized.batch_entropy
        terms = {
            "l1": self.l1_weight * F.l1_loss(rebuilt, images),
            "l2": self.l2_weight * F.mse_loss(rebuilt, images),
            "commitment": self.commitment_weight * quantized.commitment,
            "entropy": self.entropy_weight * entropy,
        }
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(rebuilt, images)
        return terms

    def _optimizer_step(self, optimizer: Any, schedule: Any, loss: Tensor) -> None:
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        average_gradients(self, (p for group in optimizer.param_groups for p in group["params"]))
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        schedule.step()

    def _log_training(self, terms: dict[str, Tensor], quantized: Any, size: int) -> None:
        for name, value in terms.items():
            self.log(f"train_loss/{name}", value.detach(), batch_size=size)
        self.log("tokenizer/image/sample_entropy", quantized.sample_entropy, batch_size=size)
        self.log("tokenizer/image/batch_entropy", quantized.batch_entropy, batch_size=size)
        self.log("train/l1", terms["l1"].detach(), prog_bar=True, batch_size=size)
        if self.updates % 50 == 0:
            use = self.train_use.compute()["usage"]
            self.log("tokenizer/image/train_usage", use, prog_bar=True, batch_size=size)
            self.train_use.reset()
