"""LoRA adapters start without effect, are all that is trained, and merge into the weights."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import SMALL

from lightning_omni.errors import OmniError
from lightning_omni.interop import Backbone, load_backbone
from lightning_omni.nn.adapters import TARGET_MODULES, Lora, merge_adapters
from lightning_omni.nn.transformer import Transformer

DREAM = Path(__file__).parents[3] / "shared" / "parity" / "dream_tiny"
CASES = [
    "small",
    pytest.param(
        "dream",
        marks=pytest.mark.skipif(not DREAM.is_dir(), reason="reference numbers are not here"),
    ),
]


@pytest.fixture(params=CASES)
def backbone(request) -> Backbone:
    if request.param == "dream":
        return load_backbone(DREAM)
    torch.manual_seed(0)
    model = Transformer(97, [[10, 4, 3]], **{**SMALL, "tie_embeddings": True})
    return Backbone(model, right_shift_logits=False)


def trained(backbone, lora, steps=3):
    """The weights before, and the backbone after a few steps."""
    before = {name: value.clone() for name, value in backbone.transformer.state_dict().items()}
    lora.adapt(backbone.transformer)
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-3)
    ids = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(backbone(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return before, ids, losses


def test_new_adapters_change_nothing(backbone):
    pytest.importorskip("peft")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = backbone(ids)
        Lora(rank=4, alpha=8.0).adapt(backbone.transformer)
        assert torch.equal(backbone(ids), before)


def test_only_adapters_learn_and_they_sit_on_every_linear_of_a_block(backbone):
    pytest.importorskip("peft")
    before, _, losses = trained(backbone, Lora(rank=4, alpha=8.0))
    assert losses[-1] < losses[0]
    after = backbone.transformer.state_dict()
    for name, value in before.items():
        path, _, last = name.rpartition(".")
        has_adapter = path.rpartition(".")[2] in TARGET_MODULES
        assert torch.equal(after[f"{path}.base_layer.{last}" if has_adapter else name], value)
    learned = {n for n, p in backbone.named_parameters() if p.requires_grad}
    blocks = len(backbone.transformer.blocks)
    assert len(learned) == 2 * len(TARGET_MODULES) * blocks
    assert all(".lora_" in name for name in learned)


@torch.no_grad()
def test_merged_weights_score_as_the_adapters_do_and_are_plain(backbone, tmp_path):
    pytest.importorskip("peft")
    with torch.enable_grad():
        before, ids, _ = trained(backbone, Lora(rank=4, alpha=8.0, targets=["q_proj", "up_proj"]))
    plain = merge_adapters(backbone.transformer)
    assert plain.state_dict().keys() == before.keys()
    expected = backbone.eval()(ids)
    Backbone(plain, right_shift_logits=backbone.right_shift_logits).save_pretrained(tmp_path)
    again = load_backbone(tmp_path)(ids)
    largest = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(again, expected, atol=1e-5 * largest, rtol=0)
    kept = load_file(tmp_path / "model.safetensors")
    changed = {n for n, v in before.items() if not torch.equal(kept[f"transformer.{n}"], v)}
    assert {n.split(".")[-2] for n in changed} == {"q_proj", "up_proj"}
    assert any(".lora_" in name for name in backbone.state_dict())
    assert merge_adapters(plain) is plain


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rank": 0, "alpha": 1.0}, "lora.rank is 0"),
        ({"rank": 1, "alpha": -1.0}, "lora.alpha is -1.0"),
        ({"rank": 1, "alpha": 1.0, "dropout": 2.0}, "lora.dropout is 2.0"),
        ({"rank": 1, "alpha": 1.0, "targets": ["head"]}, "names 'head', wanted some of q_proj"),
        ({"rank": 1, "alpha": 1.0, "targets": []}, "lora.targets is empty"),
    ],
)
def test_wrong_settings_are_named(given, words):
    with pytest.raises(OmniError, match=words):
        Lora(**given)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(OmniError, match=r"run pip install 'lightning_omni\[peft\]'"):
        Lora(rank=1, alpha=1.0)
