"""Perceptual loss: the distance between features of a timm network."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.errors import OmniError


class TimmPerceptual(nn.Module):
    """Mean squared distance of normalised feature maps at several depths.

    Args:
        model: A timm model that supports `features_only`.
        checkpoint: File with its weights; None for random weights, which compare texture without a
            download.

    Raises:
        OmniError: If the checkpoint does not exist.

    Source: LPIPS, arXiv:1801.03924, with unit weights; random features, arXiv:1711.10925.
    """

    def __init__(self, model: str, checkpoint: str | None) -> None:
        super().__init__()
        if checkpoint is not None and not Path(checkpoint).is_file():
            raise OmniError(f"no perceptual checkpoint at '{checkpoint}'; give a file or null")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = timm.create_model(
                model, pretrained=False, features_only=True, checkpoint_path=checkpoint or ""
            )
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TimmPerceptual:
        """Stay in evaluation mode, as the features are fixed."""
        return super().train(False)

    def forward(
        self, images: Float[Tensor, "B 3 Y X"], targets: Float[Tensor, "B 3 Y X"]
    ) -> Float[Tensor, ""]:
        """Return the distance of images in [-1, 1]."""
        ours, theirs = self.network(images), self.network(targets)
        distances = [
            F.mse_loss(F.normalize(a, dim=1), F.normalize(b, dim=1)) * a.shape[1]
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(distances).mean()
