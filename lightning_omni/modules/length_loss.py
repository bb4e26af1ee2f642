"""Train a head that reads the length of an answer off its request."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.nn.length_head import LengthHead, Query, query_states
from lightning_omni.nn.transformer import Transformer
from lightning_omni.types import Batch
from lightning_omni.vocab import Vocab

HeadFactory = Callable[[int], LengthHead]


class LengthLoss:
    """Cross-entropy of the lengths of answers in text and speech; pictures have one length.

    Requests run by themselves, in a pass of their own, so that no state can know its answer. The
    diffusion loss is what it was.

    Args:
        head: Builds the head from the backbone's width.
        weight: Beside the diffusion loss.
        every: One of so many samples is asked, chosen by the number of its visit.
        trains_backbone: Whether the backbone learns from it too.
    """

    def __init__(self, head: HeadFactory, weight: float, every: int, trains_backbone: bool) -> None:
        check_within("length_loss.weight", weight, 0)
        check_within("length_loss.every", every, 1)
        self.head, self.weight, self.every = head, weight, every
        self.trains_backbone = trains_backbone

    def nats(
        self, backbone: Transformer, head: LengthHead, batch: Batch, vocab: Vocab, *, every: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-log p of each length asked for, the head's scores and the lengths.

        Float[N], Float[N K] and Int[N].

        Args:
            backbone: Whose states the head reads.
            head: That is trained.
            batch: Of packed samples.
            vocab: Of the batch.
            every: One of so many samples is asked.
        """
        query, lengths = requests(batch, vocab, every=every)
        if len(lengths):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_backbone):
                states = query_states(backbone, query)
        else:  # still a part of the graph: devices that share a model all wait for its gradient
            states = torch.zeros(0, backbone.norm.normalized_shape[0], device=lengths.device)
        logits = head(states)
        return F.cross_entropy(logits, head.classes(lengths), reduction="none"), logits, lengths


def requests(batch: Batch, vocab: Vocab, *, every: int) -> tuple[Query, Tensor]:
    """The requests of a batch whose answers vary in length, and those lengths, Int[N].

    What follows the first place of an answer is cut off, and that place is a mask.
    """
    segment, is_answer = batch.segment_ids.flatten(), batch.maskable.flatten()
    modality = batch.modality.flatten()
    varies = torch.tensor([name != "image" for name in vocab.modalities], device=segment.device)
    is_counted = is_answer & varies[modality] & ~batch.is_tail_pad.flatten()
    length = torch.bincount(segment[is_counted], minlength=batch.num_segments)
    is_asked = (length > 0) & (batch.visits % every == 0)
    index = torch.arange(len(segment), device=segment.device)
    first = torch.full((batch.num_segments,), len(segment), device=segment.device)
    first = first.scatter_reduce(0, segment[is_answer], index[is_answer], "amin")
    kept = is_asked[segment] & (index <= first[segment])
    ids = batch.ids.flatten().masked_fill(index == first[segment], vocab.mask_token_id)
    counts = torch.bincount(segment[kept], minlength=batch.num_segments)[is_asked]
    positions = batch.position_ids.flatten(0, 1)[kept]
    heard = batch.continuous and batch.continuous.among(kept.nonzero().squeeze(1))
    return Query(ids[kept], positions, tuple(counts.tolist()), heard), length[is_asked]
