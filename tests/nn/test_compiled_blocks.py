"""Compiled blocks: one graph for all blocks but the last and one for it, whatever batches hold."""

import importlib
import importlib.util
from functools import partial

import pytest
import torch
from small_models import SMALL

from lightning_omni.nn import segments
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer


def stand_in(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cq: torch.Tensor, ck: torch.Tensor, m: int
) -> torch.Tensor:
    CALLS.append(len(q))
    return q.clone()


CALLS = []
"""Queries of each call of the stand-in kernel."""


@pytest.fixture
def kernel(monkeypatch):
    """An opaque kernel in the place of a GPU's, behind torch's signature."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    op = torch.library.custom_op("flash_attn::test_compiled_blocks", stand_in, mutates_args=())
    op.register_fake(lambda q, *rest: torch.empty_like(q))
    op.register_autograd(
        lambda ctx, g: (g.clone(), *(g.new_zeros(ctx.shape) for _ in "kv"), None, None, None),
        setup_context=lambda ctx, inputs, output: setattr(ctx, "shape", inputs[1].shape),
    )

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa=False):
        assert enable_gqa
        assert max_q == max_k
        return op(query, key, value, cu_seq_q, cu_seq_k, max_q)

    def choose(device):  # what no compiler could follow
        return "varlen" if importlib.util.find_spec("torch") else "sdpa"

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(segments, "attention_backend", choose)
    yield
    torch._dynamo.reset()


def compile_by(backend, monkeypatch):
    """Let torch compile by a backend."""
    whole = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", whole)


def train_step(model, lengths, num_positions):
    """Compute gradients of a batch in bfloat16, and return the final states."""
    total = sum(lengths)
    ends = torch.tensor([0, *lengths] + [0] * 60).cumsum(0).int()
    places = torch.arange(total)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        states = model(
            places % 50,
            torch.stack((places, places, places), 1),
            SegmentLayout.of_batch(ends, lengths, max_length=64),
            positions=torch.arange(num_positions),
        )
    states.float().square().sum().backward()
    return states


# the compiler looks at gradients of what has none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_blocks_are_compiled_once_for_batches_of_any_segments_and_positions(
    kernel, monkeypatch, recomputation
):
    from torch._dynamo.utils import counters

    compile_by("aot_eager", monkeypatch)
    counters.clear()
    model = Transformer(50, [], **{**SMALL, "num_layers": 3})
    model.recompute_activations(recomputation)
    model.compile_blocks()
    graphs = []
    for count in (3, 4, 9, 6):
        CALLS.clear()
        assert len(train_step(model, (7, 5, count, 16 - count), count)) == count
        graphs.append(counters["stats"]["unique_graphs"])
        assert len(CALLS) == len(model.blocks) * (2 if recomputation == "full" else 1)
    assert graphs == [2, 2, 2, 2]
    assert not counters["graph_break"]


# the compiler looks at gradients of what has none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(
    ("backend", "tolerance"),
    [("aot_eager", 0.0), pytest.param("inductor", 2e-2, marks=pytest.mark.slow)],
)
def test_recomputation_in_compiled_blocks_leaves_gradients_as_they_are(
    kernel, monkeypatch, backend, tolerance
):
    compile_by(backend, monkeypatch)
    found = {}
    for recomputation in ("none", "selective"):
        torch.manual_seed(0)
        model = Transformer(50, [], **{**SMALL, "num_layers": 2})
        model.recompute_activations(recomputation)
        model.compile_blocks()
        for count in (3, 4):
            train_step(model, (7, 5, 16), count)
        found[recomputation] = [p.grad for p in model.parameters() if p.grad is not None]
    for kept, recomputed in zip(found["none"], found["selective"], strict=True):
        torch.testing.assert_close(recomputed, kept, rtol=tolerance, atol=tolerance)
