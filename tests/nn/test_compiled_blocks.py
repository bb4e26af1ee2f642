"""Compiled blocks: one graph for all blocks but the last and one for it, whatever batches hold."""

import importlib
import importlib.util

import pytest
import torch
from small_models import SMALL

from lightning_omni.nn import segments
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.nn.transformer import Transformer


def stand_in(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cq: torch.Tensor, ck: torch.Tensor, m: int
) -> torch.Tensor:
    return q.clone()


@pytest.fixture
def kernel(monkeypatch):
    """An opaque kernel in the place of a GPU's, behind torch's signature."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    op = torch.library.custom_op("test_compiled_blocks::attend", stand_in, mutates_args=())
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


# the compiler looks at gradients of what has none
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_blocks_are_compiled_once_for_batches_of_any_segments_and_positions(kernel, monkeypatch):
    from torch._dynamo.utils import counters

    whole = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, fullgraph: whole(f, fullgraph=fullgraph, backend="aot_eager")
    )
    counters.clear()
    model = Transformer(50, [], **{**SMALL, "num_layers": 3})
    model.compile_blocks()
    graphs = []
    for count in (3, 4, 9, 6):
        lengths = (7, 5, count, 16 - count)
        ends = torch.tensor([0, *lengths] + [0] * 60).cumsum(0).int()
        layout = SegmentLayout.of_batch(ends, lengths, max_length=64)
        positions = torch.arange(28)
        with torch.autocast("cpu", torch.bfloat16):
            states = model(
                torch.zeros(28, dtype=torch.long),
                torch.stack((positions, positions, positions), 1),
                layout,
                positions=torch.arange(count),
            )
        assert states.shape[0] == count
        states.float().sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [2, 2, 2, 2]
    assert not counters["graph_break"]
