"""Count the parameters of a network."""

from __future__ import annotations

import torch

from lightning_omni.nn.transformer import Transformer


def count_parameters(network: torch.nn.Module | None) -> int:
    """Return the number of parameters of a network, shared ones counted once; 0 for None."""
    return 0 if network is None else sum(p.numel() for p in network.parameters())


def count_parameters_by_part(network: Transformer) -> dict[str, int]:
    """Return the number of parameters by part; a tied head counts 0."""
    embedding = network.embedding
    is_tied = embedding.head.weight is embedding.tokens.weight
    parts = {
        "embedding": embedding.tokens.weight.numel(),
        "head": 0 if is_tied else embedding.head.weight.numel(),
        "blocks": count_parameters(network.blocks),
    }
    if network.feature_projector is not None:
        parts["projector"] = count_parameters(network.feature_projector)
    total = count_parameters(network)
    return {**parts, "other": total - sum(parts.values()), "total": total}
