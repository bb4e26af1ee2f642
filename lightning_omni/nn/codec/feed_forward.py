"""Feed-forward of the published speech networks that name their layers `w_1` and `w_2`."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn


class FrameFeedForward(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        dim: Size of a frame.
        hidden_dim: Size between the layers.
        activation: Function between the layers.
    """

    def __init__(
        self, dim: int, hidden_dim: int, *, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.activation = activation
        self.w_1 = nn.Linear(dim, hidden_dim)
        self.w_2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Transform each frame."""
        out: Tensor = self.w_2(self.activation(self.w_1(x)))
        return out
