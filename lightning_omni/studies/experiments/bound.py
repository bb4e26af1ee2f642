"""The bound on -log p of each test sample's answer under an exported model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.outcome import Outcome
from lightning_omni.metrics.nelbo import NelboPerToken
from lightning_omni.pretrained import load_weights
from lightning_omni.studies.experiments.measured import Measured
from lightning_omni.studies.experiments.parts import build_parts
from lightning_omni.studies.experiments.recipe import Recipe

METRIC = "nats_per_token"


def for_test(recipe: Recipe, *, tasks: Sequence[str], split: str, limit: int, seed: int) -> Recipe:
    """A copy whose test split is the first `limit` samples of each task, its masks by this seed."""
    changed = copy.deepcopy(recipe)
    data, model = changed["data"]["init_args"], changed["model"]["init_args"]
    data.update(tasks=dict.fromkeys(tasks, 1.0), test_split=split, val_samples=limit)
    model.update(noise_seed=seed, init_from=None)
    return changed


@torch.inference_mode()
def measure_bound(recipe: Recipe, export: Path) -> Measured:
    """The bound per token of each sample of the recipe's test split, `<modality>/nats_per_token`.

    Args:
        recipe: From `for_test`; its module is given the exported weights.
        export: Folder that training exported.

    Raises:
        OmniError: If the split has no samples.
    """
    module, data = build_parts(recipe)
    module.backbone.load_state_dict(load_weights(export))
    module.eval()
    data.prepare_data()
    data.setup("test")
    names = module.vocab.modalities
    total = NelboPerToken(len(names))
    found: dict[int, Outcome] = {}
    for batch in data.test_dataloader():
        nats, tokens, modality = module.nelbo(batch)
        has = (modality >= 0).nonzero().squeeze(1)
        total.update(nats[has], tokens[has], modality[has])
        for n in has.tolist():
            metric = f"{names[int(modality[n])]}/{METRIC}"
            found[int(batch.sample_index[n])] = Outcome(
                {metric: (float(nats[n]), float(tokens[n]))}
            )
    if not found:
        raise OmniError(
            f"no samples of tasks {list(data.tasks)} in '{data.test_split}' to measure the bound "
            "on; choose another split"
        )
    errors = zip(names, total.compute()[1].tolist(), strict=True)
    return Measured(
        [str(visit) for visit in sorted(found)],
        [found[visit] for visit in sorted(found)],
        {f"{name}/{METRIC}": error for name, error in errors if error == error},
    )
