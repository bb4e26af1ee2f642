"""The joint model's training: masked discrete diffusion over packed text, speech and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_omni.argument_checks import check_within
from lightning_omni.diffusion.forward_process import ForwardProcess, mask_tokens
from lightning_omni.diffusion.nelbo import nelbo_mask, nelbo_per_segment, stratified_mask_ratios
from lightning_omni.diffusion.next_token import next_token_batch
from lightning_omni.diffusion.objective import MaskedDiffusionObjective, rows_at_once
from lightning_omni.errors import OmniError
from lightning_omni.metrics.nelbo import NelboPerToken
from lightning_omni.modules.epoch_means import EpochMeans
from lightning_omni.modules.initial_weights import drop_length_head, load_initial_weights
from lightning_omni.modules.metric_breakdown import metric_breakdown
from lightning_omni.modules.sharding import (
    is_sharded,
    products_dtype,
    shard_transformer,
)
from lightning_omni.nn.adapters import Lora
from lightning_omni.nn.attention_mask import annealed_mask
from lightning_omni.nn.embedding import CodebookEmbedding
from lightning_omni.nn.recomputation import Recomputation
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.optimizer import (
    OptimizerFactory,
    build_optimizer_and_schedule,
    decay_groups,
)
from lightning_omni.optim.schedule import check_schedule
from lightning_omni.pretrained import resolve_pretrained
from lightning_omni.types import Batch, NoisyBatch
from lightning_omni.vocab import SpecialTokensName, Vocab

LOSS_POSITIONS = {"cpu": 64, "cuda": 256}
"""Multiple to which the positions with a loss are padded, by device type: few shapes, for which
kernels are prepared once."""
BackboneFactory = Callable[[int, list[list[int]]], Transformer]


class MaskedDiffusionModule(L.LightningModule):
    """Trains one bidirectional transformer to predict masked answer tokens.

    A backbone with `is_causal` predicts the next token of answers instead, and nothing is masked:
    a next-token model to start from.

    Args:
        vocab: Ids per span in order (linked from the data).
        backbone: Builds the transformer from the vocabulary's size and code spans.
        code_feature_dims: Feature size of each modality whose codes carry features; may be empty.
        forward_process: Which tokens are masked, and the weight of each loss.
        modality_weight: Loss weight of each modality.
        optimizer: Builds the optimizer from the parameter groups.
        weight_decay: Weight decay of matrices.
        warmup_steps: Steps of linear warm-up of the learning rate.
        total_steps: Step at which its cosine ends.
        final_lr_share: Share of the learning rate at that step.
        noise_seed: Seed of times and masks.
        init_from: Exported folder of the stage before or an imported checkpoint, or several in
            order of preference (`bundled` is the package's own model); None starts from random
            weights. See `load_initial_weights`.
        recompute_activations: What of each block the backward pass computes again to save memory:
            `none`, `selective` (all but matrix products and attention) or `full`; `true` is `full`.
        compile_pointwise: Compile the operations between matrix products; needs a C++ compiler on
            CPUs.
        compile_blocks: Compile every block whole, which has an effect on GPUs only: on CPUs
            attention loops over segments, whose lengths differ from batch to batch.
        nelbo_draws: Masks drawn of each test sample to estimate its NELBO.
        lora: Adapters that are trained in place of the backbone's own weights.
        special_tokens: Set of special tokens (linked from the data).
        anneal_attention_steps: Steps over which attention goes from causal to bidirectional, for a
            start from a next-token model; 0 for bidirectional at once. Until then it takes a dense
            mask, which no kernel for packed segments has.

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
        recompute_activations: Recomputation | bool = "none",
        compile_pointwise: bool = False,
        compile_blocks: bool = False,
        nelbo_draws: int = 16,
        lora: Lora | None = None,
        special_tokens: SpecialTokensName = "native",
        anneal_attention_steps: int = 0,
    ) -> None:
        super().__init__()
        check_within("model.nelbo_draws", nelbo_draws, 1)
        check_within("model.anneal_attention_steps", anneal_attention_steps, 0)
        check_schedule(warmup_steps, total_steps, final_lr_share, weight_decay)
        for name, weight in modality_weight.items():
            check_within(f"model.modality_weight.{name}", weight, 0)
        self.vocab = Vocab.from_sizes(vocab, special_tokens)
        _require_each_modality(
            self.vocab, schedules=forward_process.schedules, modality_weight=modality_weight
        )
        spans = {name: self.vocab.span(name) for name in code_feature_dims}
        self.code_spans = {
            name: [span.start, span.size, code_feature_dims[name]] for name, span in spans.items()
        }
        self.backbone = backbone(self.vocab.size, list(self.code_spans.values()))
        self.is_adapted = lora is not None
        if lora is not None:
            lora.adapt(self.backbone)
        if recompute_activations:
            chosen = "full" if recompute_activations is True else recompute_activations
            self.backbone.recompute_activations(chosen)
        if compile_pointwise and compile_blocks:
            raise OmniError(
                "compile_pointwise and compile_blocks are both set; blocks hold the pointwise "
                "operations, so set only one"
            )
        if compile_pointwise:
            self.backbone.compile_pointwise()
        self.compile_blocks = compile_blocks
        self.anneal_attention_steps = anneal_attention_steps
        self._check_annealing()
        self.forward_process = forward_process
        self.objective = MaskedDiffusionObjective(self.vocab, modality_weight)
        self.optimizer_factory, self.weight_decay = optimizer, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.final_lr_share, self.init_from = final_lr_share, init_from
        self.noise_seed, self.nelbo_draws = noise_seed, nelbo_draws
        self.epoch_means = EpochMeans()
        self.nelbo_per_token, self.nelbo_per_code = (
            NelboPerToken(len(self.vocab.modalities)) for _ in range(2)
        )

    def setup(self, stage: str) -> None:
        """Load initial weights and code features; a resumed checkpoint overrides both."""
        if stage != "fit":
            return
        if self.compile_blocks and self.trainer.strategy.root_device.type == "cuda":
            self.backbone.compile_blocks()
        folder = None
        if self.init_from is not None:
            folder = resolve_pretrained(self.init_from)
            load_initial_weights(self.backbone, folder, self.vocab, seed=self.noise_seed)
        datamodule = getattr(self.trainer, "datamodule", None)
        features = datamodule.code_features() if datamodule is not None else {}
        if datamodule is not None:
            if folder is not None:
                datamodule.check_text_ids(folder)
            datamodule.check_feature_projector(
                has_projector=self.backbone.feature_projector is not None
            )
        for name, module in zip(self.code_spans, self.backbone.embedding.spans, strict=True):
            assert isinstance(module, CodebookEmbedding)  # noqa: S101
            if features[name].shape != module.features.shape:
                raise OmniError(
                    f"{name} codes have features of shape {tuple(features[name].shape)} but the "
                    f"model expects {tuple(module.features.shape)}; set code_feature_dims"
                )
            module.load(features[name])

    def configure_model(self) -> None:
        """Shard the network if the strategy has a mesh of devices."""
        if self.device_mesh is not None and not is_sharded(self.backbone):
            self.shard(self.device_mesh["data_parallel"], dtype=products_dtype(self.trainer))

    def shard(self, mesh: DeviceMesh, *, dtype: torch.dtype | None = None) -> None:
        """Share out the network's weights over devices; see `shard_transformer`.

        Raises:
            OmniError: If the network has adapters, whose merging needs whole weights.
        """
        if self.is_adapted:
            raise OmniError(
                "adapters (model.lora) cannot be sharded; train them with recipes/strategy/ddp.yaml"
            )
        shard_transformer(self.backbone, mesh, dtype=dtype)

    def apply_forward_process(self, batch: Batch) -> Batch:
        """Return a batch of the host with its forward process, which the data calls.

        There the number of masks is known; on a GPU the host would wait for it in every step.
        """
        noisy = self._noisy_batch(batch)
        is_gpus = self.device.type == "cuda"
        return replace(batch, noisy=noisy.pin_memory() if is_gpus else noisy)

    def _noisy_batch(self, batch: Batch) -> NoisyBatch:
        """Return the batch after the forward process, with positions in few numbers."""
        if batch.noisy is not None:
            return batch.noisy
        multiple = LOSS_POSITIONS["cuda" if self.device.type == "cuda" else "cpu"]
        if self.backbone.is_causal:
            return next_token_batch(batch, multiple=multiple)
        return self.forward_process(batch, self.vocab, seed=self.noise_seed, multiple=multiple)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict the batch's masked tokens, and return the weighted loss."""
        noisy = self._noisy_batch(batch)
        hidden = self._final_states(batch, noisy, self._annealed_segments(batch))
        loss: Tensor
        loss, nll = self.objective(hidden, self.backbone.embedding.output_embedding(), batch, noisy)
        self.log("train/loss", loss.detach(), batch_size=batch.num_rows)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for name, (total, count) in self._breakdown(batch, noisy, nll, hidden).items():
                self.log(f"train_{name}", total / count, batch_size=count, on_step=None)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the same loss with the same noise each time."""
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the losses and accuracies of the validation split."""
        self._log_epoch_means("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss on the test split, and the NELBO of its answers."""
        self._evaluate("test", batch)
        nelbo, tokens, modality = self.nelbo(batch)
        has = modality >= 0
        self.nelbo_per_token.update(nelbo[has], tokens[has], modality[has])
        self.nelbo_per_code.update(nelbo[has], self._num_codes(batch)[has], modality[has])

    def segments(self, batch: Batch) -> SegmentLayout:
        """Return which tokens of a batch attend to each other."""
        return self.backbone.batch_layout(batch)

    def _annealed_segments(self, batch: Batch) -> SegmentLayout:
        """Return the same in a training step, where attention may still be partly causal."""
        layout, steps = self.segments(batch), self.anneal_attention_steps
        if self.global_step >= steps:
            return layout
        rng = torch.Generator().manual_seed(self.noise_seed + self.global_step)
        share = self.global_step / steps
        longest = max(layout.lengths, default=0)
        mask = annealed_mask(longest, share, rng, layout.cu_seqlens.device)
        return replace(layout, mask=mask)

    def _check_annealing(self) -> None:
        """Refuse to anneal what stays as it is, or what takes no mask."""
        if not self.anneal_attention_steps:
            return
        obstacles = {
            "backbone.is_causal": self.backbone.is_causal,
            "backbone.isolate_prompt": self.backbone.isolate_prompt,
            "compile_blocks": self.compile_blocks,
        }
        for name, is_set in obstacles.items():
            if is_set:
                raise OmniError(
                    f"anneal_attention_steps is {self.anneal_attention_steps} and {name} is set, "
                    "which do not go together; set only one"
                )

    def _final_states(
        self, batch: Batch, noisy: NoisyBatch, layout: SegmentLayout | None = None
    ) -> Tensor:
        """Return final states at the positions with a loss, Float[M D]."""
        states: Tensor = self.backbone(
            noisy.x_t,
            batch.position_ids,
            layout or self.segments(batch),
            positions=noisy.positions,
            continuous=batch.continuous,
        )
        return states

    def nelbo(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the NELBO of each segment's answer in nats, its tokens and its modality.

        Float64[N], Int[N] and Int[N]; the modality is -1 where nothing is answered. Tail pads stay
        visible, so this is the likelihood of an answer of given length. A causal network has the
        likelihood itself.
        """
        index, segment, is_answer = batch.sample_index, batch.segment_ids, batch.is_answer
        total = torch.zeros(batch.num_segments, dtype=torch.float64, device=is_answer.device)
        table = self.backbone.embedding.output_embedding()
        draws = self.nelbo_draws
        if self.backbone.is_causal:
            noisy, draws = next_token_batch(batch), 1
            _, nll = self.objective(self._final_states(batch, noisy), table, batch, noisy)
            total += nelbo_per_segment(nll, segment[noisy.positions], torch.ones_like(total))
        ratios = stratified_mask_ratios(self.noise_seed, index, draws=draws)
        for draw, ratio in enumerate([] if self.backbone.is_causal else ratios):
            is_masked, factor = nelbo_mask(
                self.noise_seed, index, ratio, is_answer, segment, batch.positions, draw=draw
            )
            noisy = mask_tokens(batch, is_masked, mask_token_id=self.vocab.mask_token_id)
            _, nll = self.objective(self._final_states(batch, noisy), table, batch, noisy)
            total += nelbo_per_segment(nll, segment[noisy.positions], factor.double())
        modality = torch.full_like(index, -1)
        modality[segment[is_answer]] = batch.modality[is_answer]  # a segment has one response
        tokens = torch.bincount(segment[is_answer], minlength=batch.num_segments)
        return total / draws, tokens, modality

    def on_test_epoch_end(self) -> None:
        """Log the NELBO of each modality, per token and in its own units, with standard errors."""
        self._log_epoch_means("test")
        datamodule = getattr(self.trainer, "datamodule", None)
        units = datamodule.nelbo_units() if datamodule is not None else {}
        per_token, per_code = (
            torch.stack(metric.compute()) for metric in (self.nelbo_per_token, self.nelbo_per_code)
        )
        for m, name in enumerate(self.vocab.modalities):
            if per_token[0, m].isfinite():
                self._log_with_standard_error("nelbo_per_token", name, per_token[:, m])
                for unit, factor in units.get(name, {}).items():
                    self._log_with_standard_error(unit, name, per_code[:, m] * factor)
        self.nelbo_per_token.reset()
        self.nelbo_per_code.reset()

    def _log_with_standard_error(self, unit: str, modality: str, measured: Tensor) -> None:
        """Log a value and its standard error, Float[2]."""
        value, error = measured.float()
        self.log(f"test/{unit}/{modality}", value)
        self.log(f"test/{unit}_error/{modality}", error)

    def _num_codes(self, batch: Batch) -> Tensor:
        """Return the number of codes of each segment's answer, terminators excluded, Int[N]."""
        spans = [self.vocab.span(name) for name in self.vocab.modalities]
        start, stop = (
            torch.tensor([getattr(s, end) for s in spans], device=batch.ids.device)[batch.modality]
            for end in ("start", "stop")
        )
        is_code = batch.is_answer & (start <= batch.ids) & (batch.ids < stop)
        return torch.bincount(batch.segment_ids[is_code], minlength=batch.num_segments)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        noisy = self._noisy_batch(batch)
        hidden = self._final_states(batch, noisy)
        loss, nll = self.objective(hidden, self.backbone.embedding.output_embedding(), batch, noisy)
        self.epoch_means.add(f"{stage}/loss", loss, batch.num_rows if batch.num_maskable else 0)
        for name, (total, count) in self._breakdown(batch, noisy, nll, hidden).items():
            self.epoch_means.add(f"{stage}_{name}", total / count, count)

    def _log_epoch_means(self, stage: str) -> None:
        """Log the means of an evaluation over the batches of all processes."""
        for name, value in self.epoch_means.take_means().items():
            self.log(name, value, prog_bar=name == f"{stage}/loss")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the length head of checkpoints of before it was removed."""
        drop_length_head(checkpoint, len(decay_groups(self.backbone, self.weight_decay)))

    def configure_optimizers(self) -> Any:
        """Build the recipe's optimizer with warm-up and cosine."""
        optimizer, schedule = build_optimizer_and_schedule(self, self.backbone)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _breakdown(
        self, batch: Batch, noisy: NoisyBatch, nll: Tensor, hidden: Tensor
    ) -> dict[str, tuple[float, int]]:
        """Return sums and counts of losses and accuracies by modality, mask ratio and task."""
        return metric_breakdown(batch, noisy, nll, self._predict(hidden), self.vocab)

    @torch.no_grad()
    def _predict(self, hidden: Tensor) -> Tensor:
        """Return the most likely id at each position, Int[M], a chunk of scores at a time."""
        chunks = torch.split(hidden, rows_at_once(self.vocab.size, hidden.device.type))
        guesses = [self.backbone.logits(h).argmax(-1) for h in chunks]
        return torch.cat(guesses) if guesses else hidden.new_empty(0, dtype=torch.long)


def _require_each_modality(vocab: Vocab, **given: dict[str, Any]) -> None:
    for name, table in given.items():
        if set(table) != set(vocab.modalities):
            raise OmniError(
                f"{name} is given for {sorted(table)} but the vocab has {sorted(vocab.modalities)}"
                "; state one value for each"
            )
