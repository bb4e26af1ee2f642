"""How long an answer will be, read off its request: a small head on the backbone's states."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import Pretrained, load_weights
from lightning_omni.types import Continuous

LENGTH_HEAD = "length_head"
"""Its folder within a model's."""


@dataclass(frozen=True, slots=True)
class Query:
    """Requests, each with one mask behind it where its answer begins, and with nothing else.

    So nothing that is computed from it can know the answer or its length.

    Attributes:
        ids: Tokens of all requests, one behind another, Int[T].
        position_ids: Index, row and column of each, Int[T 3].
        lengths: Of the requests, mask included.
        continuous: Features in the place of some tokens.
    """

    ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    continuous: Continuous | None


def query_states(backbone: Transformer, query: Query) -> Float[Tensor, "N D"]:
    """The state at the mask of each request."""
    last = torch.tensor(list(accumulate(query.lengths)), device=query.ids.device) - 1
    is_open = torch.zeros_like(query.ids, dtype=torch.bool)
    is_open[last] = True
    layout = backbone.segment_layout(query.lengths, is_open)
    states: Tensor = backbone(
        query.ids, query.position_ids, layout, positions=last, continuous=query.continuous
    )
    return states


class LengthHead(Pretrained):
    """A distribution over lengths in positions, terminator included.

    Classes are lengths 1, 2, 3 ... and, once neighbours are closer than `ratio`, runs of lengths
    that grow by it.

    Args:
        dim: Width D of the backbone.
        hidden_dim: Of the layer between.
        longest: Largest length that is told from shorter ones.
        ratio: Of the ends of neighbouring classes, above 1.
    """

    ends: Tensor

    def __init__(self, dim: int, hidden_dim: int, longest: int, ratio: float) -> None:
        super().__init__()
        ends = [1]
        while ends[-1] < longest:
            ends.append(min(longest, max(ends[-1] + 1, round(ends[-1] * ratio))))
        self.register_buffer("ends", torch.tensor(ends), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, len(ends))
        )

    def take_weights(self, folder: Path) -> None:
        """Go on from a folder that `save_pretrained` wrote.

        Raises:
            OmniError: If it holds a head of another shape.
        """
        try:
            self.load_state_dict(load_weights(folder))
        except RuntimeError as error:
            raise OmniError(
                f"'{folder}' holds another length head ({error}); use the settings of the stage "
                "before, or remove that folder to begin anew"
            ) from error

    def forward(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Scores of the K classes."""
        out: Tensor = self.layers(states).float()
        return out

    def classes(self, lengths: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """Class of each length; the last also holds all that are longer."""
        return torch.searchsorted(self.ends, lengths).clamp(max=len(self.ends) - 1)

    def positions(self, logits: Float[Tensor, "N K"], quantile: float) -> Int[Tensor, " N"]:
        """The largest length of the first class up to which so much probability lies."""
        enough = logits.double().softmax(-1).cumsum(-1) >= quantile
        enough[:, -1] = True
        return self.ends[enough.long().argmax(-1)]
