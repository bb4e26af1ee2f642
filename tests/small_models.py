"""A backbone that fits in a test, one as Dream is published, and one sample of every task."""

import json
from random import Random
from types import SimpleNamespace

import torch

from lightning_omni.interop import Backbone
from lightning_omni.interop.command import import_checkpoint
from lightning_omni.interop.export import export_model
from lightning_omni.nn.transformer import Transformer
from lightning_omni.tasks import task_named
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
        Turn("user", tuple(parts[m] for m in declared.inputs)),
        Turn("assistant", tuple(parts[m] for m in declared.outputs)),
    )
    return Sample("key", task, turns)


def as_lists(sequence):
    """A rendered sample with plain lists in place of its arrays."""
    plain = {
        name: getattr(sequence, name).tolist()
        for name in ("ids", "maskable", "is_tail_pad", "modality")
    }
    position_ids = [tuple(row) for row in sequence.position_ids.tolist()]
    return SimpleNamespace(position_ids=position_ids, features=sequence.features, **plain)


def rendered_with(template, sample, part):
    """The sample rendered for training, asked until the part wanted is the one in the hole."""
    index = template.vocab.modalities.index(sample.turns[-1].parts[part].modality)
    tries = (template.render(sample, rng=Random(i)) for i in range(99))
    return next(r for r in tries if index in r.modality)


QWEN_SHAPE = {**SMALL, "rope_sections": None, "qk_norm": False}
"""The same as Dream and Qwen2 have them."""


def import_small_dream(folder, rows, *, token_ids=None, kind="dream", **changes):
    """A random published checkpoint with so many rows, imported; `folder` gets both."""
    torch.manual_seed(1)
    model = Transformer(rows, [], **{**QWEN_SHAPE, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.01, std=0.3)
    Backbone(model, right_shift_logits=kind != "qwen2").save_pretrained(folder / "own")
    export_model(folder / "own", "hf", folder / "published")
    path = folder / "published" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (token_ids or {})))
    import_checkpoint(kind, folder / "published", folder / "imported")
    return folder / "imported"
