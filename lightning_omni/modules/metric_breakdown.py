"""Losses and accuracies of a batch, broken down by modality, mask ratio and task."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch, NoisyBatch
from lightning_omni.vocab import Vocab

NUM_BINS = 5


def metric_breakdown(
    batch: Batch, noisy: NoisyBatch, nll: Tensor, guess: Tensor, vocab: Vocab
) -> dict[str, tuple[float, int]]:
    """Return the sum and number of the values of each group of tokens that has any.

    They are keyed by the name that their mean is logged as. `nelbo/<modality>` and
    `nelbo_task/<task>` hold a value of each answer token, 0 where it is visible, so that their mean
    is an unbiased estimate of the NELBO in nats per token; there are none if the forward process
    does not allow for it. `confusion/<modality>` is 1 where the most likely id lies in another span
    of the vocabulary than the true one. A GPU is waited for once.

    Args:
        batch: True tokens.
        noisy: The same batch after the forward process.
        nll: -log p of the true token at each position with a loss, Float[M].
        guess: Most likely id at each position, Int[M]; read where it is masked.
        vocab: Vocabulary of the batch.
    """
    modality = batch.modality[noisy.positions]
    task = batch.tasks[batch.segment_ids[noisy.positions]]
    truth = batch.ids[noisy.positions]
    bins = (noisy.ratio * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    is_right = guess == truth
    is_confused = _span_numbers(truth, vocab) != _span_numbers(guess, vocab)
    groups = _Groups()
    for m, name in enumerate(vocab.modalities):
        of_m = noisy.is_masked & (modality == m)
        groups.add(f"loss_unweighted/{name}", nll, of_m)
        groups.add(f"acc/{name}", is_right, of_m)
        groups.add(f"confusion/{name}", is_confused, of_m)
        for b in range(NUM_BINS):
            groups.add(f"loss_t_{name}/bin{b}", nll, of_m & (bins == b))
            groups.add(f"acc_t_{name}/bin{b}", is_right, of_m & (bins == b))
    for k, name in enumerate(TASK_NAMES):
        groups.add(f"loss_task/{name}", nll, noisy.is_masked & (task == k))
        groups.add(f"acc_task/{name}", is_right, noisy.is_masked & (task == k))
    if noisy.nelbo_weight is not None:
        nats = torch.zeros(len(batch.ids), dtype=nll.dtype, device=nll.device)
        nats.index_add_(0, noisy.positions, nll * noisy.nelbo_weight)
        task_of_all = batch.tasks[batch.segment_ids]
        for m, name in enumerate(vocab.modalities):
            groups.add(f"nelbo/{name}", nats, batch.is_answer & (batch.modality == m))
        for k, name in enumerate(TASK_NAMES):
            groups.add(f"nelbo_task/{name}", nats, batch.is_answer & (task_of_all == k))
    return groups.sums_and_counts()


class _Groups:
    """Sums and numbers of values, which stay on the device until they are read."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, is_member: Tensor) -> None:
        """Sum up the values of a group."""
        total = torch.where(is_member, values, 0).sum(dtype=torch.float64)
        self._found[name] = torch.stack((total, is_member.sum(dtype=torch.float64)))

    def sums_and_counts(self) -> dict[str, tuple[float, int]]:
        """Return the sum and number of each group that has a member."""
        found = torch.stack(list(self._found.values())).tolist()
        named = zip(self._found, found, strict=True)
        return {name: (total, int(count)) for name, (total, count) in named if count}


def _span_numbers(ids: Tensor, vocab: Vocab) -> Tensor:
    """Return the number of the span of the vocabulary that each id lies in."""
    return sum((ids >= s.stop).long() for s in vocab.spans.values())  # type: ignore[return-value]
