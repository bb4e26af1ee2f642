"""What docs/equal_answers.md says of equal scores, and that it speaks of every place."""

import ast
import re
from pathlib import Path

import pytest
import torch

from lightning_omni.samplers.entropy_bounded import EntropyBounded
from lightning_omni.samplers.factor import Factor
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.ranking import most_confident_first
from lightning_omni.samplers.token_choice import choose_token, truncate_logits

ROOT = Path(__file__).parents[2]
ORDERING = {"topk", "sort", "argsort", "argmax", "argmin", "kthvalue", "msort"}


def _places(path):
    """The innermost functions in which scores are ordered."""
    found = set()

    def visit(node, name):
        if isinstance(node, ast.FunctionDef):
            name = node.name
        called = getattr(node, "func", None)
        if isinstance(called, ast.Attribute) and called.attr in ORDERING:
            found.add(name)
        for child in ast.iter_child_nodes(node):
            visit(child, name)

    visit(ast.parse(path.read_text()), None)
    return found


def test_the_page_lists_every_place_that_orders_scores():
    package = ROOT / "lightning_omni"
    found = {
        (f"{folder}/{path.name}", name)
        for folder in ("samplers", "generation")
        for path in (package / folder).glob("*.py")
        for name in _places(path)
    }
    page = (ROOT / "docs/equal_answers.md").read_text()
    listed = set(re.findall(r"^\| `(\S+): (\w+)` \|", page, re.MULTILINE))
    assert found | {("generation/generator.py", "_likeliest_candidate")} == listed


def test_the_lowest_id_of_equally_likely_tokens_is_taken():
    logits = torch.zeros(3, 5000)
    logits[1, 17:] = 1.0
    noise = Noise.for_samples(torch.tensor([0]), torch.zeros(3, dtype=torch.long))
    chosen = choose_token(logits, temperature=0.0, noise=noise, positions=torch.arange(3))
    assert chosen.tolist() == [0, 17, 0]


def test_top_k_keeps_all_tokens_as_likely_as_the_last():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    kept = truncate_logits(logits, top_p=1.0, top_k=2).isfinite()
    assert kept.tolist() == [[True, True, True, True, False]]


def test_the_earlier_of_equally_confident_positions_is_first():
    confidence, sample = torch.zeros(400), torch.arange(400) // 200
    order, rank = most_confident_first(confidence, sample, 2)
    assert order.tolist() == list(range(400))
    assert rank.tolist() == [*range(200), *range(200)]


@pytest.mark.parametrize(
    ("sampler", "confidence"),
    [
        (EntropyBounded(0.25), [-0.1, -0.1, -0.1, -0.1, 0.0, 0.0]),
        (Factor(1.0), [0.8, 0.8, 0.8, 0.8, 1.0, 1.0]),
    ],
)
def test_a_number_of_positions_is_the_same_for_any_order_of_equals(sampler, confidence):
    values = torch.tensor(confidence)
    sample = torch.zeros(len(values), dtype=torch.long)
    rng = torch.Generator().manual_seed(0)
    counts = {
        int(sampler.num_confident(values[torch.randperm(6, generator=rng)], sample, 1))
        for _ in range(20)
    }
    assert len(counts) == 1
    assert 2 < counts.pop() < 6
