"""What curves show of a batch: nats and accuracy by modality, by mask ratio and by task."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.diffusion.forward_process import Corrupted
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch
from lightning_omni.vocab import Vocab

NUM_BINS = 5


def slices(
    batch: Batch, noisy: Corrupted, nats: Tensor, guess: Tensor, vocab: Vocab
) -> dict[str, Tensor]:
    """Values of those masks that each name is about, perhaps none.

    `confusion/<modality>` tells whether a mask's likeliest id lies in another span of the
    vocabulary than the true one.

    Args:
        batch: The samples.
        noisy: The same, corrupted.
        nats: -log p at each place with a loss, Float[M].
        guess: Likeliest id of each that is a mask.
        vocab: Of the batch.
    """
    masked, nats = noisy.places[noisy.is_mask], nats[noisy.is_mask]
    modality = batch.modality.flatten()[masked]
    task = batch.tasks[batch.segment_ids.flatten()[masked]]
    bins = (noisy.ratio[noisy.is_mask] * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    truth = batch.ids.flatten()[masked]
    is_right = (guess == truth).float()
    stops = torch.tensor([s.stop for s in vocab.spans.values()], device=guess.device)
    own, guessed = (torch.bucketize(ids, stops, right=True) for ids in (truth, guess))
    found: dict[str, Tensor] = {}
    for m, name in enumerate(vocab.modalities):
        of_m = modality == m
        found[f"loss_unweighted/{name}"] = nats[of_m]
        found[f"confusion/{name}"] = (own != guessed)[of_m].float()
        for b in range(NUM_BINS):
            chosen = of_m & (bins == b)
            found[f"loss_t_{name}/bin{b}"] = nats[chosen]
            found[f"acc_t_{name}/bin{b}"] = is_right[chosen]
    for k, name in enumerate(TASK_NAMES):
        found[f"loss_task/{name}"] = nats[task == k]
    return found
