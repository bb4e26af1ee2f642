"""A backbone that fits in a test, and one sample of every task."""

from random import Random

from lightning_omni.data.tasks import task_named
from lightning_omni.types import Sample, Turn

SMALL = {
    "dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_dim": 48,
    "rope_theta": 1e4,
    "rope_sections": [2, 1, 1],
    "qkv_bias": True,
    "qk_norm": True,
    "tie_embeddings": False,
}
"""Settings of a transformer."""


def sample_of(task, parts):
    """One question and its answer, every part taken from `parts` by its modality."""
    declared = task_named(task)
    turns = (
        Turn("user", tuple(parts[m] for m in declared.asks)),
        Turn("assistant", tuple(parts[m] for m in declared.answers)),
    )
    return Sample("key", task, turns)


def rendered_with(template, sample, part):
    """The sample rendered for training, asked until the part wanted is the one in the hole."""
    index = template.vocab.modalities.index(sample.turns[-1].parts[part].modality)
    tries = (template.render(sample, rng=Random(i)) for i in range(99))
    return next(r for r in tries if index in r.modality)
