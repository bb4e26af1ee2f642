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
from lightning_omni.modules.replicas import disable_gradient_sync
from lightning_omni.modules.tokenizer_training import TokenizerTraining
from lightning_omni.nn.codec.discriminators import PatchDiscriminator
from lightning_omni.optim.optimizer import OptimizerFactory
from lightning_omni.tokenizers.image import ImageTokenizer


class ImageTokenizerModule(TokenizerTraining):
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
        super().__init__(optimizer, weight_decay, warmup_steps, total_steps, final_lr_share)
        self.tokenizer = tokenizer
        self.perceptual, self.discriminator = perceptual, discriminator
        self.l1_weight, self.l2_weight = l1_weight, l2_weight
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.use = CodebookUse(tokenizer.num_codes)
        self.train_use = CodebookUse(tokenizer.num_codes)
        self.psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))
        self.ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))

    def training_step(self, images: Tensor, batch_idx: int) -> None:
        """Update the tokenizer, and the discriminator once the adversarial loss has begun."""
        with disable_gradient_sync(self):
            self._update(images)

    def _update(self, images: Tensor) -> None:
        optimizers, schedules = self.optimizers_and_schedules()
        self.begin_step()
        quantized = self.tokenizer.quantize(images)
        rebuilt = self.tokenizer.reconstruct(quantized.latents)
        terms = self._loss_terms(images, rebuilt, quantized)
        is_adversarial = self.discriminator is not None and self.updates >= self.adversarial_start
        if is_adversarial and self.discriminator is not None:
            terms["adversarial"] = self.adversarial_weight * hinge_generator(
                self.discriminator(rebuilt)
            )
        self.note_losses(terms, len(images))
        self._optimizer_step(optimizers[0], schedules[0], torch.stack(list(terms.values())).sum())
        if is_adversarial and self.discriminator is not None:
            real, fake = self.discriminator(images), self.discriminator(rebuilt.detach())
            critic = hinge_discriminator(real, fake)
            self.note_losses({"critic": critic}, len(images))
            self._optimizer_step(optimizers[1], schedules[1], critic)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of updates."""
        checkpoint["updates"] = self.updates

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self.updates = checkpoint["updates"]

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
        self.finish_step(optimizer, schedule)

    def _log_training(self, terms: dict[str, Tensor], quantized: Any, size: int) -> None:
        self.log("tokenizer/image/sample_entropy", quantized.sample_entropy, batch_size=size)
        self.log("tokenizer/image/batch_entropy", quantized.batch_entropy, batch_size=size)
        self.log("train/l1", terms["l1"].detach(), batch_size=size)
        if self.updates % 50 == 0:
            use = self.train_use.compute()["usage"]
            self.log("tokenizer/image/train_usage", use, batch_size=size)
            self.train_use.reset()
