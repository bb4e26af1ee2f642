"""The joint model's training: masked discrete diffusion over packed text, speech and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from lightning_omni.diffusion.forward_process import Corrupted, ForwardProcess
from lightning_omni.diffusion.nelbo import (
    bound_per_segment,
    mask_for_bound,
    stratified_levels,
)
from lightning_omni.diffusion.objective import per_maskable, rows_at_once, weighted_nll
from lightning_omni.errors import OmniError, check_within
from lightning_omni.metrics.nelbo import BoundPerToken
from lightning_omni.modules.initial_weights import load_initial
from lightning_omni.modules.length_loss import LengthLoss
from lightning_omni.modules.metric_breakdown import slices
from lightning_omni.nn.adapters import Lora
from lightning_omni.nn.embedding import CodebookEmbedding
from lightning_omni.nn.length_head import LENGTH_HEAD, LengthHead
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.schedule import (
    OptimizerFactory,
    build_optimizer,
    check_schedule,
    decay_groups,
    warmup_cosine,
)
from lightning_omni.pretrained import locate
from lightning_omni.types import Batch
from lightning_omni.vocab import SpecialTokensName, Vocab

BackboneFactory = Callable[[int, list[list[int]]], Transformer]


class MaskedDiffusionModule(L.LightningModule):
    """Trains one bidirectional transformer to predict masked answer tokens.

    Args:
        vocab: Ids per span in order (linked from the data).
        backbone: Builds the transformer from the vocabulary's size and code spans.
        code_feature_dims: Feature size of each modality whose codes carry features; may be empty.
        forward_process: Which tokens are masked, and what each loss weighs.
        modality_weight: Loss weight of each modality.
        optimizer: Built from the parameter groups.
        weight_decay: Of matrices.
        warmup_steps: Of the learning rate.
        total_steps: Where its cosine ends.
        final_lr_share: What is left of the rate there.
        noise_seed: Of times and masks.
        init_from: Exported folder of the stage before or an imported checkpoint, or several in
            order of preference (`shipped` is the package's own model); None starts from random
            weights. See `load_initial`.
        recompute_activations: Trade a second forward pass of each block for its memory.
        bound_draws: Masks drawn of each test sample for the bound on its likelihood.
        compile_pointwise: Compile what lies between matrix products; needs a C++ compiler on CPUs.
        lora: Adapters that are trained in place of the backbone's own weights.
        length_loss: Trains a head that predicts the lengths of answers; None is no head.
        special_tokens: Which there are (linked from the data).

    Source: MDLM, arXiv:2406.07524, algorithm 1; Omni-Diffusion, arXiv:2603.06577, section 3.2.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        backbone: BackboneFactory,
        code_feature_dims: dict[str, int],
        forward_process: ForwardProcess,
        modality_weight: dict[str, float],
        optimizer: OptimizerFactory,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        final_lr_share: float,
        noise_seed: int,
        init_from: str | list[str] | None = None,
        recompute_activations: bool = False,
        compile_pointwise: bool = False,
        bound_draws: int = 16,
        lora: Lora | None = None,
        length_loss: LengthLoss | None = None,
        special_tokens: SpecialTokensName = "own",
    ) -> None:
        super().__init__()
        check_within("model.bound_draws", bound_draws, 1)
        check_schedule(warmup_steps, total_steps, final_lr_share, weight_decay)
        for name, weight in modality_weight.items():
            check_within(f"model.modality_weight.{name}", weight, 0)
        self.vocab = Vocab.of_sizes(vocab, special_tokens)
        _require_all(
            self.vocab, schedules=forward_process.schedules, modality_weight=modality_weight
        )
        spans = {name: self.vocab.span(name) for name in code_feature_dims}
        self.code_spans = {
            name: [span.start, span.size, code_feature_dims[name]] for name, span in spans.items()
        }
        self.backbone = backbone(self.vocab.size, list(self.code_spans.values()))
        if lora is not None:
            lora.adapt(self.backbone)
        if recompute_activations:
            self.backbone.recompute_activations()
        if compile_pointwise:
            self.backbone.compile_pointwise()
        self.length_loss = length_loss
        self.length_head: LengthHead | None = None
        if length_loss is not None:
            self.length_head = length_loss.head(int(self.backbone.init_args["dim"]))
        self.forward_process, self.codebooks = forward_process, 1
        weights = torch.tensor([modality_weight[name] for name in self.vocab.modalities])
        self.register_buffer("modality_weight", weights, persistent=False)
        self.optimizer_factory, self.weight_decay = optimizer, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.final_lr_share, self.init_from = final_lr_share, init_from
        self.noise_seed, self.bound_draws = noise_seed, bound_draws
        self.bound, self.bound_per_code = (
            BoundPerToken(len(self.vocab.modalities)) for _ in range(2)
        )

    def setup(self, stage: str) -> None:
        """Load the stage before and the codes' features; a resumed checkpoint overrides both."""
        if stage != "fit":
            return
        if self.init_from is not None:
            folder = locate(self.init_from)
            load_initial(self.backbone, folder, self.vocab, seed=self.noise_seed)
            if self.length_head is not None and (folder / LENGTH_HEAD).is_dir():
                self.length_head.take_weights(folder / LENGTH_HEAD)
        datamodule = getattr(self.trainer, "datamodule", None)
        features = datamodule.code_features() if datamodule is not None else {}
        if datamodule is not None:
            self.codebooks = datamodule.template.codebooks
            datamodule.check_heard(has_projector=self.backbone.feature_projector is not None)
        for name, module in zip(self.code_spans, self.backbone.embedding.spans, strict=True):
            assert isinstance(module, CodebookEmbedding)  # noqa: S101
            if features[name].shape != module.features.shape:
                raise OmniError(
                    f"{name} codes have features of shape {tuple(features[name].shape)} but the "
                    f"model expects {tuple(module.features.shape)}; set code_feature_dims"
                )
            module.load(features[name])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of the paper's algorithm."""
        noisy = self.corrupt(batch)
        hidden = self.hidden(batch, noisy)
        loss, nats = self._loss(batch, noisy, hidden)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.ids))
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_slices("train", batch, noisy, nats, hidden)
        if self.length_loss is not None:
            every, weight = self.length_loss.every, self.length_loss.weight
            loss = loss + weight * self._length_nats("train", batch, every=every)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same loss with the same noise each time."""
        self._measure("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test split, and the bound on -log p of its answers."""
        self._measure("test", batch)
        nats, tokens, modality = self.bounds(batch)
        has = modality >= 0
        self.bound.update(nats[has], tokens[has], modality[has])
        self.bound_per_code.update(nats[has], self._codes(batch)[has], modality[has])

    def bounds(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The bound on -log p of each segment's answer in nats, its tokens and its modality.

        Float64[N], Int[N] and Int[N]; the modality is -1 where nothing is answered. Tail pads stay
        visible, so it is the likelihood of an answer whose length is given.
        """
        segment, visits, position = batch.segment_ids.flatten(), batch.visits, batch.position()
        core = batch.maskable.flatten() & ~batch.is_tail_pad.flatten()
        total = torch.zeros(batch.num_segments, dtype=torch.float64, device=core.device)
        levels = stratified_levels(self.noise_seed, visits, draws=self.bound_draws)
        for draw, level in enumerate(levels):
            is_masked, factor = mask_for_bound(
                self.noise_seed, visits, level, core, segment, position, draw=draw
            )
            noisy = self._masked(batch, is_masked)
            nats = self._nats(batch, noisy, self.hidden(batch, noisy))
            total += bound_per_segment(nats, segment[noisy.places], factor.double())
        modality = torch.full_like(visits, -1)
        modality[segment[core]] = batch.modality.flatten()[core]  # one part a segment, one modality
        tokens = torch.bincount(segment[core], minlength=batch.num_segments)
        return total / self.bound_draws, tokens, modality

    def on_test_epoch_end(self) -> None:
        """Log the bound of each modality with its standard error, and both in its own unit."""
        datamodule = getattr(self.trainer, "datamodule", None)
        units = datamodule.bound_units() if datamodule is not None else {}
        per_token, per_code = (torch.stack(b.compute()) for b in (self.bound, self.bound_per_code))
        for m, name in enumerate(self.vocab.modalities):
            if per_token[0, m].isfinite():
                self._log_with_error("nats_per_token", name, per_token[:, m])
                for unit, factor in units.get(name, {}).items():
                    self._log_with_error(unit, name, per_code[:, m] * factor)
        self.bound.reset()
        self.bound_per_code.reset()

    def _log_with_error(self, unit: str, modality: str, measured: Tensor) -> None:
        """Log a bound and its standard error, Float[2]."""
        value, error = measured.float()
        self.log(f"test/{unit}/{modality}", value)
        self.log(f"test/{unit}_error/{modality}", error)

    def _codes(self, batch: Batch) -> Tensor:
        """Codes of each segment's answer, without what ends it, Int[N]."""
        ids, modality = batch.ids.flatten(), batch.modality.flatten()
        spans = [self.vocab.span(name) for name in self.vocab.modalities]
        start, stop = (
            torch.tensor([getattr(s, end) for s in spans], device=ids.device)[modality]
            for end in ("start", "stop")
        )
        core = batch.maskable.flatten() & ~batch.is_tail_pad.flatten()
        segment = batch.segment_ids.flatten()[core & (start <= ids) & (ids < stop)]
        return torch.bincount(segment, minlength=batch.num_segments)

    def _measure(self, stage: str, batch: Batch) -> None:
        noisy = self.corrupt(batch)
        hidden = self.hidden(batch, noisy)
        loss, nats = self._loss(batch, noisy, hidden)
        size = len(batch.ids)
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        self._log_slices(stage, batch, noisy, nats, hidden)
        if self.length_loss is not None:
            self._length_nats(stage, batch, every=1)

    def _length_nats(self, stage: str, batch: Batch, *, every: int) -> Tensor:
        """Mean -log p of lengths; logged with the error of the median in positions."""
        assert self.length_loss is not None  # noqa: S101
        assert self.length_head is not None  # noqa: S101
        nats, logits, lengths = self.length_loss.nats(
            self.backbone, self.length_head, batch, self.vocab, every=every
        )
        self._log_mean(f"{stage}_length/nats", nats.detach())
        error = self.length_head.positions(logits.detach(), 0.5) - lengths
        self._log_mean(f"{stage}_length/error", error.abs().float())
        return nats.sum() / max(1, len(nats))

    def corrupt(self, batch: Batch) -> Corrupted:
        """Draw x_t with one time per sample; noise depends on the sample's visit alone."""
        return self.forward_process.corrupt(
            batch, self.vocab, seed=self.noise_seed, codebooks=self.codebooks
        )

    def hidden(self, batch: Batch, noisy: Corrupted) -> Tensor:
        """Final states at the places that have a loss, Float[M D]."""
        lengths = batch.cu_seqlens.diff().tolist()
        layout = self.backbone.segment_layout(lengths, batch.maskable.flatten())
        states: Tensor = self.backbone(
            *(noisy.x_t, batch.position_ids.flatten(0, 1), layout),
            positions=noisy.places,
            continuous=batch.continuous,
        )
        return states

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all devices where they share the model, else as Lightning does."""
        whole = self.trainer.strategy.model
        if isinstance(whole, FullyShardedDataParallel):
            if gradient_clip_val:
                whole.clip_grad_norm_(gradient_clip_val)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer with warm-up and cosine."""
        groups = decay_groups(self.backbone, self.weight_decay)
        if self.length_head is not None:
            groups += decay_groups(self.length_head, self.weight_decay)
        optimizer = build_optimizer(self.optimizer_factory, groups)
        schedule = warmup_cosine(
            optimizer,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
            final_share=self.final_lr_share,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _loss(self, batch: Batch, noisy: Corrupted, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and -log p(x_0 | x_t) at each place that has one, Float[M]."""
        modality = batch.modality.flatten()
        of_modality: Any = self.modality_weight
        weight = noisy.weight * of_modality[modality[noisy.places]]
        core = batch.maskable.flatten() & ~batch.is_tail_pad.flatten()
        total, nats = self._weighted(batch, noisy, hidden, weight)
        return per_maskable(total, of_modality[modality[core]].sum()), nats

    def _nats(self, batch: Batch, noisy: Corrupted, hidden: Tensor) -> Tensor:
        """-log p of the true token at each mask, Float[M]."""
        return self._weighted(batch, noisy, hidden, noisy.weight)[1]

    def _weighted(
        self, batch: Batch, noisy: Corrupted, hidden: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        return weighted_nll(
            hidden,
            self.backbone.embedding.output_embedding(),
            batch.ids.flatten()[noisy.places],
            weight,
            mask_token_id=self.vocab.mask_token_id,
        )

    def _masked(self, batch: Batch, is_masked: Tensor) -> Corrupted:
        """A batch with these tokens masked, at no ratio in particular."""
        masked = is_masked.nonzero().squeeze(1)
        x_t = batch.ids.flatten().masked_fill(is_masked, self.vocab.mask_token_id)
        ones = torch.ones(len(masked), device=x_t.device)
        return Corrupted(x_t, masked, ones.bool(), ones, ones)

    def _log_slices(
        self, stage: str, batch: Batch, noisy: Corrupted, nats: Tensor, hidden: Tensor
    ) -> None:
        """Log what the slices of a batch are on average."""
        guess = self._likeliest(hidden[noisy.is_mask])
        for name, values in slices(batch, noisy, nats, guess, self.vocab).items():
            self._log_mean(f"{stage}_{name}", values)

    @torch.no_grad()
    def _likeliest(self, hidden: Tensor) -> Tensor:
        """Likeliest id of each mask, Int[M], a chunk of scores at one time."""
        chunks = torch.split(hidden, rows_at_once(self.vocab.size))
        guesses = [self.backbone.logits(h).argmax(-1) for h in chunks]
        return torch.cat(guesses) if guesses else hidden.new_empty(0, dtype=torch.long)

    def _log_mean(self, name: str, values: Tensor) -> None:
        """Log a mean over masks; a batch without such masks adds nothing, rather than a zero."""
        if len(values):
            self.log(name, values.mean(), batch_size=len(values), on_step=None)


def _require_all(vocab: Vocab, **given: dict[str, Any]) -> None:
    for name, table in given.items():
        if set(table) != set(vocab.modalities):
            raise OmniError(
                f"{name} is given for {sorted(table)} but the vocab has {sorted(vocab.modalities)}"
                "; state one value for each"
            )
