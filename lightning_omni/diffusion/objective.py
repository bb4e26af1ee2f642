"""The training objective: the NELBO, from hidden states at masked positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_omni.types import Batch, NoisyBatch
from lightning_omni.vocab import Vocab

_SCORES = {"cpu": 2**24, "cuda": 2**30}  # scores of a chunk, if rows are short
_ALIGNED = 8  # ids; unaligned rows of scores take a GPU's products four times as long
_IDS = 2**14  # rows of the table's gradient per product
_TINY = 1e-30
_ROWS = 256  # smallest chunk, as every chunk adds to the whole gradient of the table


class MaskedDiffusionObjective(nn.Module):
    """Weighted negative log-likelihood of the masked tokens, per answer token.

    Another objective is another class with this call: hidden states and a corrupted batch in, the
    loss and the nats of each token out.

    Args:
        vocab: Vocabulary of the batches.
        modality_weight: Loss weight of each modality.

    Source: MDLM, arXiv:2406.07524, equation 10.
    """

    modality_weight: Tensor

    def __init__(self, vocab: Vocab, modality_weight: dict[str, float]) -> None:
        super().__init__()
        self.mask_token_id = vocab.mask_token_id
        weights = torch.tensor([modality_weight[name] for name in vocab.modalities])
        self.register_buffer("modality_weight", weights, persistent=False)

    def forward(
        self,
        hidden: Float[Tensor, "M D"],
        table: Float[Tensor, "V D"],
        batch: Batch,
        noisy: NoisyBatch,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
        """Return the loss, and -log p(x_0 | x_t) of each token that has one, detached.

        Args:
            hidden: Final states at `noisy.positions`.
            table: Output embedding.
            batch: True tokens.
            noisy: The same batch, corrupted.
        """
        modality = batch.modality[noisy.positions]
        weight = noisy.weight * self.modality_weight[modality]
        total, nll = weighted_nll(
            hidden,
            table,
            batch.ids[noisy.positions],
            weight,
            mask_token_id=self.mask_token_id,
        )
        num_answer = self.modality_weight[batch.modality[batch.answer_positions]].sum()
        return per_answer_token(total, num_answer), nll


def weighted_nll(
    hidden: Float[Tensor, "M D"],
    table: Float[Tensor, "V D"],
    x0: Int[Tensor, " M"],
    weight: Float[Tensor, " M"],
    *,
    mask_token_id: int,
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
    """Return the weighted sum of -log p(x_0) in nats, and the nats of each position, detached.

    Scores are `hidden @ table.T`; the mask itself is never a valid prediction, so its score is
    removed. Only `chunk` rows of scores exist at one time, and their gradient is formed with them,
    so memory does not grow with M times V. Products run in autocast's dtype, the rest in float32.

    Args:
        hidden: Final states at the masked positions.
        table: Output embedding.
        x0: True ids.
        weight: Weight of each position in the sum.
        mask_token_id: Id of the mask.
        chunk: Rows of scores at one time; None for `rows_at_once`.

    Source: MDLM, arXiv:2406.07524, section 3.2.3 (zero masking probability).
    """
    if not torch.is_grad_enabled():  # a function of autograd looks at its inputs only
        hidden, table = hidden.detach(), table.detach()
    rows = chunk or rows_at_once(len(table), hidden.device.type)
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    out: tuple[Tensor, Tensor] = _WeightedNLL.apply(
        hidden, table, x0, weight, mask_token_id, rows, dtype
    )
    return out


def rows_at_once(num_ids: int, device_type: str) -> int:
    """Return the number of rows of scores over `num_ids` ids that exist at one time."""
    return max(_ROWS, _SCORES["cpu" if device_type == "cpu" else "cuda"] // num_ids)


def scores_at_once(device_type: str) -> int:
    """Return the number of scores widened to float32 at one time.

    They fit a CPU's cache, or fill another device.
    """
    return 2**19 if device_type == "cpu" else 2**26


def per_answer_token(total: Float[Tensor, ""], num_answer: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return weighted nats per answer token, the NELBO of a batch; 0 for a batch without any.

    The divisor is the number of answer tokens, not of masked ones: it keeps 1/t weights unbiased.
    """
    return total / num_answer.where(num_answer > 0, 1)


def _nats_and_p(
    scores: Tensor, true: Tensor, dtype: torch.dtype, *, branches: bool
) -> tuple[Tensor, Tensor]:
    """Return -log p of the true ids, Float[M], also where p underflows, and p, Float[M V].

    Args:
        scores: Scores, Float[M V].
        true: True ids, Int[M 1].
        dtype: Format of the results.
        branches: Whether to look for underflow, which halves the time on a CPU; a GPU would be
            waited for.
    """
    if not branches:
        log_p = scores.log_softmax(1, dtype=dtype)
        return -log_p.gather(1, true).squeeze(1), log_p.exp_()
    p = scores.softmax(1, dtype=dtype)
    at_true = p.gather(1, true)
    nats = -at_true.log()
    is_lost = (at_true < _TINY).squeeze(1)
    if is_lost.any():
        wide = scores[is_lost].to(dtype)
        nats[is_lost] = wide.logsumexp(1, keepdim=True) - wide.gather(1, true[is_lost])
    return nats.squeeze(1), p


def _nats_and_gradient(scores: Tensor, true: Tensor, weight: Tensor, *, turns: bool) -> Tensor:
    """Return -log p of the true ids, Float[M]; with `turns` overwrite the scores by the gradient.

    The gradient is that of the weighted sum. A few rows at a time stay in the processor's cache.
    """
    exact, kind = weight.dtype, scores.device.type
    rows = max(1, scores_at_once(kind) // scores.shape[1])
    nats = torch.empty(len(scores), dtype=exact, device=scores.device)
    parts = zip(*(torch.split(x, rows) for x in (scores, true, weight, nats)), strict=True)
    for some, at, factor, out in parts:
        values, p = _nats_and_p(some, at, exact, branches=kind == "cpu")
        out.copy_(values)
        if turns:
            some.copy_(p.mul_(factor).scatter_add_(1, at, -factor))
    return nats


def _write_product(out: Tensor, scores: Tensor, hidden: Tensor, *, adds: bool) -> None:
    """Write or add scores.T @ hidden, some ids at a time, as the whole may not fit twice."""
    for part, some in zip(torch.split(out, _IDS), torch.split(scores, _IDS, 1), strict=True):
        put = part.add_ if adds else part.copy_
        put(some.T @ hidden)


class _WeightedNLL(torch.autograd.Function):
    """One pass over chunks computes the loss and, as its weights are known, both gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        x0: Tensor,
        weight: Tensor,
        mask_token_id: int,
        chunk: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        h, w = hidden.detach().to(dtype), table.detach().to(dtype)
        num_ids = len(w)
        if h.device.type != "cpu":
            w = F.pad(w, (0, 0, 0, -num_ids % _ALIGNED))
        exact = torch.promote_types(dtype, torch.float32)
        weight = weight.to(exact)
        nats = torch.empty(len(h), dtype=exact, device=h.device)
        needs_hidden, needs_table = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(h) if needs_hidden else None
        new = torch.empty_like if len(h) else torch.zeros_like  # nothing may be masked
        grad_table = new(w, dtype=exact) if needs_table else None
        for start in range(0, len(h), chunk):
            rows = slice(start, start + chunk)
            scores = h[rows] @ w.T
            scores[:, mask_token_id] = -torch.inf
            scores[:, num_ids:] = -torch.inf
            nats[rows] = _nats_and_gradient(
                scores, x0[rows, None], weight[rows, None], turns=needs_hidden or needs_table
            )
            if grad_hidden is not None:
                grad_hidden[rows] = scores @ w
            if grad_table is not None:
                _write_product(grad_table, scores, h[rows], adds=start > 0)
        if grad_table is not None:
            grad_table = grad_table[:num_ids]
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.dtypes = hidden.dtype, table.dtype
        ctx.mark_non_differentiable(nats)
        return (nats * weight).sum(), nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = (
            None if saved is None else torch.mul(saved, grad, out=torch.empty_like(saved, dtype=to))
            for saved, to in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None, None, None, None, None)
