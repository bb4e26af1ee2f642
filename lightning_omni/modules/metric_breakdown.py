"""Losses and accuracies of a batch, broken down by modality, mask ratio and task."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.diffusion.forward_process import NoisyBatch
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch
from lightning_omni.vocab import Vocab

NUM_BINS = 5


def metric_breakdown(
    batch: Batch, noisy: NoisyBatch, nll: Tensor, guess: Tensor, vocab: Vocab
) -> dict[str, Tensor]:
    """Return the values of the tokens of each group, perhaps none, by the name they are logged as.

    `nelbo/<modality>` and `nelbo_task/<task>` hold a value of each answer token, 0 where it is
    visible, so that their mean is an unbiased estimate of the NELBO in nats per token; there are
    none if the forward process does not allow for it. `confusion/<modality>` is 1 where the most
    likely id lies in another span of the vocabulary than the true one.

    Args:
        batch: True tokens.
        noisy: The same batch, corrupted.
        nll: -log p of the true token at each position with a loss, Float[M].
        guess: Most likely id of each mask.
        vocab: Vocabulary of the batch.
    """
    nll_of_all = nll
    masked, nll = noisy.positions[noisy.is_masked], nll[noisy.is_masked]
    modality = batch.modality[masked]
    task = batch.tasks[batch.segment_ids[masked]]
    bins = (noisy.ratio[noisy.is_masked] * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    truth = batch.ids[masked]
    is_right = (guess == truth).float()
    stops = torch.tensor([s.stop for s in vocab.spans.values()], device=guess.device)
    true_span, guessed_span = (torch.bucketize(ids, stops, right=True) for ids in (truth, guess))
    found = _nelbo(batch, noisy, nll_of_all, vocab)
    for m, name in enumerate(vocab.modalities):
        of_m = modality == m
        found[f"loss_unweighted/{name}"] = nll[of_m]
        found[f"acc/{name}"] = is_right[of_m]
        found[f"confusion/{name}"] = (true_span != guessed_span)[of_m].float()
        for b in range(NUM_BINS):
            chosen = of_m & (bins == b)
            found[f"loss_t_{name}/bin{b}"] = nll[chosen]
            found[f"acc_t_{name}/bin{b}"] = is_right[chosen]
    for k, name in enumerate(TASK_NAMES):
        found[f"loss_task/{name}"] = nll[task == k]
        found[f"acc_task/{name}"] = is_right[task == k]
    return found


def _nelbo(batch: Batch, noisy: NoisyBatch, nll: Tensor, vocab: Vocab) -> dict[str, Tensor]:
    """Return the weighted nats of the answer tokens of each modality and task."""
    if noisy.nelbo_weight is None:
        return {}
    weighted = torch.zeros(len(batch.ids), dtype=nll.dtype, device=nll.device)
    weighted[noisy.positions] = nll * noisy.nelbo_weight
    nats, modality = weighted[batch.is_answer], batch.modality[batch.is_answer]
    task = batch.tasks[batch.segment_ids[batch.is_answer]]
    of_modality = {f"nelbo/{name}": nats[modality == m] for m, name in enumerate(vocab.modalities)}
    return of_modality | {
        f"nelbo_task/{name}": nats[task == k] for k, name in enumerate(TASK_NAMES)
    }
