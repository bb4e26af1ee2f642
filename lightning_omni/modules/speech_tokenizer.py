"""Trains the speech tokenizer: continuous warm-up, k-means, then residual quantization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_omni.losses.adversarial import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from lightning_omni.losses.balancer import GradientBalancer
from lightning_omni.losses.spectral import MultiResolutionSpectralLoss
from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.modules.replicas import disable_gradient_sync
from lightning_omni.modules.tokenizer_training import TokenizerTraining
from lightning_omni.nn.codec.discriminators import STFTDiscriminator
from lightning_omni.nn.codec.mel_codec import LogMel
from lightning_omni.nn.ranks import draw_normal, gather_ranks
from lightning_omni.optim.optimizer import OptimizerFactory
from lightning_omni.tokenizers.speech import SpeechTokenizer

RESTART_EVERY = 20


class SpeechTokenizerModule(TokenizerTraining):
    """Codec training, with or without a discriminator.

    The quantizer is used after `continuous_steps`, its codebooks fitted by k-means to the latents
    of the encoder; trained together from the start they collapse.

    Args:
        tokenizer: The network to train.
        optimizer: Builds the optimizers from parameter groups.
        weight_decay: Weight decay of matrices.
        warmup_steps: Steps of linear warm-up of the learning rate.
        total_steps: Step at which its cosine ends.
        final_lr_share: Share of the learning rate at that step.
        continuous_steps: Steps without quantizer, with noise of size `latent_noise` in its place.
        latent_noise: Standard deviation of that noise.
        kmeans_vectors: Number of latent vectors to which the codebooks are fitted.
        quantizer_dropout: Probability that a batch uses a random number of levels, which orders
            the levels from coarse to fine.
        mel_weight: Weight of the error of the decoder's log-mel estimate.
        commitment_weight: Weight of the distance to the first codebook.
        discriminator: Discriminator of waveforms; None for none.
        loss_shares: With a discriminator, shares of the gradient at the waveform of the losses
            `spectral`, `adversarial` and `features`.
        seed: Seed of all draws.

    Source: EnCodec, arXiv:2210.13438; quantizer dropout, SoundStream, arXiv:2107.03312.
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        optimizer: OptimizerFactory,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        final_lr_share: float,
        continuous_steps: int,
        latent_noise: float,
        kmeans_vectors: int,
        quantizer_dropout: float,
        mel_weight: float,
        commitment_weight: float,
        discriminator: STFTDiscriminator | None,
        loss_shares: dict[str, float],
        seed: int,
    ) -> None:
        super().__init__(optimizer, weight_decay, warmup_steps, total_steps, final_lr_share)
        self.tokenizer, self.discriminator = tokenizer, discriminator
        self.balancer = GradientBalancer(loss_shares)
        self.continuous_steps, self.latent_noise = continuous_steps, latent_noise
        self.kmeans_vectors, self.quantizer_dropout = kmeans_vectors, quantizer_dropout
        self.mel_weight, self.commitment_weight = mel_weight, commitment_weight
        self.spectral = MultiResolutionSpectralLoss(tokenizer.sample_rate, drawn=2)
        self.log_mel = LogMel(tokenizer.sample_rate, 640, 160, 80)
        self.rng = torch.Generator().manual_seed(seed)
        size, levels = tokenizer.codebook_size, tokenizer.quantizer.num_codebooks
        self.use = torch.nn.ModuleList(CodebookUse(size) for _ in range(levels))
        self.latents: list[Tensor] = []

    def training_step(self, wave: Tensor, batch_idx: int) -> None:
        """Update the tokenizer, and the discriminator if there is one."""
        with disable_gradient_sync(self):
            self._update(wave)

    def _update(self, wave: Tensor) -> None:
        optimizers, schedules = self.optimizers_and_schedules()
        if self.updates == self.continuous_steps:
            self._fit_codebooks()
        self.begin_step()
        latents, commitment = self._latents(self.tokenizer.encoder(wave))
        rebuilt, mel = self.tokenizer.decoder(latents)
        spectral = self.spectral(rebuilt, wave, rng=self.rng)
        inner = self.commitment_weight * commitment
        if mel is not None:
            mel_l1 = F.l1_loss(mel, self.log_mel(wave))
            inner = inner + self.mel_weight * mel_l1
            self.note_losses({"mel": mel_l1}, len(wave))
        self.note_losses({"spectral": spectral, "commitment": commitment}, len(wave))
        self.toggle_optimizer(optimizers[0])
        optimizers[0].zero_grad()
        self._backward(wave, rebuilt, spectral, inner)
        self.finish_step(optimizers[0], schedules[0])
        if self.discriminator is not None:
            self._train_discriminator(optimizers[1], schedules[1], wave, rebuilt.detach())
        self.updates += 1

    def _latents(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's input, and the commitment loss."""
        if self.updates < self.continuous_steps:
            self._collect_latents(z)
            noise = draw_normal(z.shape, self.rng).to(z)
            return z + self.latent_noise * noise, z.new_zeros(())
        quantized = self.tokenizer.quantizer(z, num_codebooks=self._draw_num_levels())
        if self.updates % RESTART_EVERY == 0:
            self.tokenizer.quantizer.restart_dead_codes(_gather_vectors(z), rng=self.rng)
        return quantized.latents, quantized.commitment

    def _backward(self, wave: Tensor, rebuilt: Tensor, spectral: Tensor, inner: Tensor) -> None:
        """Backpropagate the sum of the losses, or with a discriminator balanced gradients."""
        if self.discriminator is None:
            self.manual_backward(spectral + inner)
            return
        scores, fake = self.discriminator(rebuilt)
        _, real = self.discriminator(wave)
        losses = {
            "spectral": spectral,
            "adversarial": torch.stack([hinge_generator(s) for s in scores]).mean(),
            "features": feature_matching(real, fake),
        }
        self.note_losses({name: losses[name] for name in ("adversarial", "features")}, len(wave))
        balanced = self.balancer.gradient(losses, rebuilt)
        if inner.requires_grad:
            self.manual_backward(inner, retain_graph=True)
        rebuilt.backward(balanced)  # type: ignore[no-untyped-call]

    def _train_discriminator(
        self, optimizer: Any, schedule: Any, wave: Tensor, fake: Tensor
    ) -> None:
        assert self.discriminator is not None  # noqa: S101
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        pairs = zip(self.discriminator(wave)[0], self.discriminator(fake)[0], strict=True)
        loss = torch.stack([hinge_discriminator(real, made) for real, made in pairs]).mean()
        self.note_losses({"critic": loss}, len(wave))
        self.manual_backward(loss)
        self.finish_step(optimizer, schedule)

    def validation_step(self, wave: Tensor, batch_idx: int) -> None:
        """Measure the log-mel distance and the use of each codebook."""
        levels = self.tokenizer.quantizer.num_codebooks
        quantized = self.tokenizer.quantize(wave, num_codebooks=levels)
        for level, use in enumerate(self.use):
            assert isinstance(use, CodebookUse)  # noqa: S101
            use.update(quantized.codes[..., level])
        used = self.tokenizer.quantizer.decode(quantized.codes[..., : self.tokenizer.num_codebooks])
        rebuilt, _ = self.tokenizer.decoder(used)
        distance = F.l1_loss(self.log_mel(rebuilt), self.log_mel(wave))
        self.log(
            "tokenizer/speech/mel_l1", distance, prog_bar=True, batch_size=len(wave), sync_dist=True
        )

    def on_validation_epoch_end(self) -> None:
        """Log usage, perplexity and dead codes of each level."""
        for level, use in enumerate(self.use):
            assert isinstance(use, CodebookUse)  # noqa: S101
            for name, value in use.compute().items():
                self.log(f"tokenizer/speech/{name}_q{level}", value)
            use.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of updates, the state of the noise and the collected latents."""
        checkpoint["speech_tokenizer"] = {
            "updates": self.updates,
            "rng": self.rng.get_state(),
            "latents": self.latents,
            "balancer": self.balancer.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` saved."""
        state = checkpoint["speech_tokenizer"]
        self.updates, self.latents = state["updates"], state["latents"]
        self.rng.set_state(state["rng"])
        if "balancer" in state:
            self.balancer.load_state_dict(state["balancer"])

    def _draw_num_levels(self) -> int:
        """Return the number of levels to use: all, or a random number."""
        levels = self.tokenizer.quantizer.num_codebooks
        if torch.rand((), generator=self.rng) < self.quantizer_dropout:
            return int(torch.randint(1, levels + 1, (), generator=self.rng))
        return levels

    def _collect_latents(self, z: Tensor) -> None:
        """Keep the newest latent vectors, those of all processes, for the codebooks."""
        self.latents.append(_gather_vectors(z).float())
        while sum(map(len, self.latents[1:])) >= self.kmeans_vectors:
            self.latents.pop(0)

    def _fit_codebooks(self) -> None:
        vectors = torch.cat(self.latents)
        vectors = vectors[vectors.isfinite().all(1)]  # without those of skipped steps
        self.tokenizer.quantizer.initialise_codebooks(vectors, iterations=12, rng=self.rng)
        self.latents = []


def _gather_vectors(z: Tensor) -> Tensor:
    """Return the latent vectors of the batches of all processes, Float[V D]."""
    return gather_ranks(z.detach().flatten(0, 1))
