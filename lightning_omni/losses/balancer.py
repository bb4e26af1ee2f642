"""Balance losses by their gradients, so that weights are shares whatever the losses' scales."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_omni.nn.ranks import mean_over_ranks, world_size


class GradientBalancer:
    """Rescales each loss's gradient at the model's output to its share of a unit norm.

    Args:
        weights: Share of each loss, by name.
        decay: Decay of the running gradient norms.

    Source: EnCodec, arXiv:2210.13438, section 3.4, equation 6.
    """

    def __init__(self, weights: dict[str, float], decay: float = 0.999) -> None:
        self.weights, self.decay = weights, decay
        self.norms: dict[str, float] = {}
        self.corrections: dict[str, float] = {}

    def gradient(
        self, losses: dict[str, Tensor], output: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Return the balanced gradient of the losses at `output`, for `output.backward`."""
        total = sum(self.weights[name] for name in losses)
        balanced = torch.zeros_like(output)
        for name, loss in losses.items():
            (grad,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self._update_norm(name, float(mean_over_ranks(grad.norm(dim=-1).mean())))
            balanced += self.weights[name] / total * grad / (norm + 1e-12)
        # a sum over samples, which processes average
        return balanced if world_size() == 1 else balanced * world_size()

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the running norms, for checkpoints."""
        return {"norms": dict(self.norms), "corrections": dict(self.corrections)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Restore the running norms."""
        self.norms, self.corrections = dict(state["norms"]), dict(state["corrections"])

    def _update_norm(self, name: str, norm: float) -> float:
        """Add a gradient norm to a loss's running mean; return the mean, bias-corrected.

        One that is not finite is left out: the step is skipped, and the mean would keep it.
        """
        if not math.isfinite(norm):
            return norm
        old, weight = self.norms.get(name, 0.0), self.corrections.get(name, 0.0)
        self.norms[name] = self.decay * old + (1 - self.decay) * norm
        self.corrections[name] = self.decay * weight + (1 - self.decay)
        return self.norms[name] / self.corrections[name]
