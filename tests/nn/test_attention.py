import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_omni.nn.attention import SegmentLayout, rotate, segment_attention

lengths_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(lengths_strategy, st.sampled_from([1, 2, 4]))
def test_segment_attention_equals_dense_attention_under_a_block_mask(lengths, kv_heads):
    rng = torch.Generator().manual_seed(1)
    total = sum(lengths)
    q = torch.randn(total, 4, 8, generator=rng)
    k, v = (torch.randn(total, kv_heads, 8, generator=rng) for _ in range(2))
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = segment[:, None] == segment[None]
    wide = [x.repeat_interleave(4 // kv_heads, 1).transpose(0, 1) for x in (k, v)]
    dense = F.scaled_dot_product_attention(q.transpose(0, 1), *wide, attn_mask=mask).transpose(0, 1)
    layout = SegmentLayout.of(lengths, device="cpu")
    torch.testing.assert_close(segment_attention(q, k, v, layout), dense, atol=1e-5, rtol=1e-4)


def test_attention_in_bfloat16_is_that_in_float32_rounded_once(rng):
    q, k, v = (torch.randn(12, 2, 8, generator=rng).bfloat16() for _ in range(3))
    layout = SegmentLayout.of([5, 7], device="cpu")
    wide = segment_attention(q.float(), k.float(), v.float(), layout)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = segment_attention(q, k, v, layout)
    assert torch.equal(narrow, wide.bfloat16())


def test_rotation_keeps_lengths_and_depends_on_distance_only(rng):
    x, y = torch.randn(1, 1, 8, generator=rng), torch.randn(1, 1, 8, generator=rng)

    def turned(z, position):
        angle = position * torch.tensor([[1.0, 0.3, 0.1, 0.03] * 2])
        return rotate(z, angle.cos(), angle.sin())

    torch.testing.assert_close(turned(x, 5).norm(), x.norm())
    near = (turned(x, 3) * turned(y, 7)).sum()
    far = (turned(x, 103) * turned(y, 107)).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_the_gpu_kernel_equals_the_loop_over_segments(kv_heads):
    lengths = [5, 64, 1, 200]
    q = torch.randn(sum(lengths), 4, 64, device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(sum(lengths), kv_heads, 64, device="cuda", dtype=torch.bfloat16) for _ in "kv"
    )
    fast = segment_attention(q, k, v, SegmentLayout.of(lengths, device="cuda"))
    slow = segment_attention(
        q.cpu().float(), k.cpu().float(), v.cpu().float(), SegmentLayout.of(lengths, device="cpu")
    )
    torch.testing.assert_close(fast.cpu().float(), slow, atol=2e-2, rtol=2e-2)
