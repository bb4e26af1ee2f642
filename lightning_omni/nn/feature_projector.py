"""Projection of continuous encoder features to token embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.errors import OmniError
from lightning_omni.types import ContinuousFeatures


class FeatureProjector(nn.Module):
    """Project an encoder's features to the model width: layer norm, linear, GELU, linear.

    With 512 features and a model width of 3584 it has 14,681,088 parameters.

    Args:
        feature_dim: Feature size F.
        dim: Model width D.

    Source: Omni-Diffusion, arXiv:2603.06577, and its released code.
    """

    def __init__(self, feature_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.into = nn.Linear(feature_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.into.weight, std=0.02)
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, features: Float[Tensor, "K F"]) -> Float[Tensor, "K D"]:
        """Project each frame."""
        normed = self.norm(features.to(self.norm.weight.dtype))
        projected: Tensor = self.out(F.gelu(self.into(normed)))
        return projected

    def overwrite(
        self, embedded: Float[Tensor, "T D"], continuous: ContinuousFeatures | None
    ) -> Float[Tensor, "T D"]:
        """Replace some embeddings by projected features; all others are returned unchanged.

        Without features, every weight still gets a gradient of zero instead of none, so that
        distributed processes agree on which gradients exist.

        Args:
            embedded: Embeddings of all tokens.
            continuous: Features and their positions; None if there are none.

        Raises:
            OmniError: If the features do not have `feature_dim` dimensions.
        """
        if continuous is None:
            no_positions = torch.empty(0, dtype=torch.long, device=embedded.device)
            continuous = ContinuousFeatures(
                no_positions, embedded.new_empty(0, self.into.in_features)
            )
        found, wanted = continuous.features.shape[1], self.into.in_features
        if found != wanted:
            raise OmniError(
                f"the features have {found} dimensions but the backbone's projector takes "
                f"{wanted}; set continuous_dim: {found} in the recipe's backbone, or use another "
                "encoder"
            )
        projected = self(continuous.features)
        return embedded.index_copy(0, continuous.positions, projected.to(embedded.dtype))
