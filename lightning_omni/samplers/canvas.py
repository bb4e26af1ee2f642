"""What samplers look at: the canvas, the scores of its open positions and the moment of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """Samples to be filled, flat over T tokens.

    Attributes:
        ids: Tokens, masks where open, Int[T].
        sample: Sample of each token, Int[T].
        hole: Order of the token's hole within its sample, -1 where the token is given, Int[T]. A
            token of a hole that is no mask is given too.
        grammar: Row of `allowed` that holds at the token, -1 where given, Int[T].
        allowed: Ids that each grammar row permits, one sorted Int[G] per row.
        num_steps: Steps for each (sample, hole), Int[S, holes].
        mask_token_id: Id of an open position.
        shift: Of the times of each (sample, hole), Float[S, holes]; above 1 commits late, below 1
            early; None is 1.
        ends: Ids that end an answer: what is open behind one becomes a pad at once. Empty lets
            steps decide.
        pad_token_id: Written there.
    """

    ids: Tensor
    sample: Tensor
    hole: Tensor
    grammar: Tensor
    allowed: tuple[Tensor, ...]
    num_steps: Tensor
    mask_token_id: int
    shift: Tensor | None = None
    ends: tuple[int, ...] = ()
    pad_token_id: int = -1


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about positions that share one grammar row.

    Attributes:
        where: Their places on the canvas, ascending, Int[M].
        allowed: Ids of the columns, Int[G].
        logits: Float[M, G], in float32.
        rank: Place of each among its sample's open positions, Int[M].
        num_open: Open positions of each one's sample, Int[M].
        progress: Share of the hole's steps already taken, Float[M], in [0, 1).
        row: The grammar row.
    """

    where: Tensor
    allowed: Tensor
    logits: Tensor
    rank: Tensor
    num_open: Tensor
    progress: Tensor
    row: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """Where every sample stands in its hole's schedule.

    Attributes:
        t: Time before the step, from 1 down, Float[S].
        s: Time after it; 0 at a hole's last step, Float[S].
        num_open: Open positions, Int[S].
    """

    t: Tensor
    s: Tensor
    num_open: Tensor


LogitsAt = Callable[[Tensor, Tensor], Tensor]
"""(where Int[M], allowed Int[G]) -> logits Float[M, G] at the places asked for."""

Denoiser = Callable[[Tensor, Tensor], LogitsAt]
"""(ids Int[T], places Int[R]) -> logits at those of the places that are asked for.

One forward pass over the ids; places ascend, and no others can be asked for.
"""
