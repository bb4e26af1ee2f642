from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_omni.nn.attention_mask import annealed_mask
from lightning_omni.nn.cpu import MAX_BF16_LENGTH
from lightning_omni.nn.rotary import rotate
from lightning_omni.nn.segments import SegmentLayout, segment_attention

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
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    torch.testing.assert_close(segment_attention(q, k, v, layout), dense, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(lengths_strategy, st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_a_mask_by_index_is_that_of_dense_attention_for_all_tokens_and_for_some(
    lengths, dtype, is_partial
):
    rng = torch.Generator().manual_seed(1)
    total = sum(lengths)
    q, k, v = (torch.randn(total, 4, 8, generator=rng).to(dtype) for _ in range(3))
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    index = torch.cat([torch.arange(n) for n in lengths])
    mask = annealed_mask(max(lengths), 0.3, rng, "cpu")
    allowed = (segment[:, None] == segment[None]) & mask.visible[index][:, index]
    dense = F.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (q, k, v)), attn_mask=allowed
    ).transpose(0, 1)
    keys = replace(SegmentLayout.from_lengths(lengths, device="cpu"), mask=mask)
    chosen = torch.arange(0, total, 2) if is_partial else torch.arange(total)
    layout = keys.select(chosen) if is_partial else keys
    mixed = segment_attention(q[chosen], k, v, layout, keys)
    assert mixed.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(mixed.float(), dense[chosen], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("query_lengths", [None, [3, 0, 5]])
def test_attention_in_bfloat16_is_that_in_float64_within_its_rounding(rng, query_lengths):
    lengths = [5, 30, 7]
    num_queries = query_lengths or lengths
    heads = ((sum(num_queries), 6), (sum(lengths), 2), (sum(lengths), 2), (sum(num_queries), 6))
    q, k, v, g = (2 * torch.randn(*shape, 8, generator=rng) for shape in heads)
    layouts = [SegmentLayout.from_lengths(n, device="cpu") for n in (num_queries, lengths)]

    def run(dtype):
        given = [x.bfloat16().to(dtype).requires_grad_() for x in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = segment_attention(*given, *layouts)
        out.backward(g.bfloat16().to(dtype))
        assert out.dtype is dtype
        return [x.detach().double() for x in (out, *(x.grad for x in given))]

    for narrow, exact in zip(run(torch.bfloat16), run(torch.float64), strict=True):
        assert (narrow - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("is_maskable", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fixed_tokens_attend_to_fixed_ones_and_maskable_tokens_to_all(rng, dtype, is_maskable):
    lengths = [5, 9, 1, 6]
    total = sum(lengths)
    q, k, v = (torch.randn(total, 4, 8, generator=rng).to(dtype) for _ in "qkv")
    drawn = torch.rand(total, generator=rng) < 0.4
    is_maskable = drawn if is_maskable is None else torch.full((total,), is_maskable)
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = (segment[:, None] == segment[None]) & (is_maskable[:, None] | ~is_maskable[None])
    q_h, k_h, v_h = (x.float().transpose(0, 1) for x in (q, k, v))
    dense = F.scaled_dot_product_attention(q_h, k_h, v_h, attn_mask=mask).transpose(0, 1)
    layout = SegmentLayout.from_lengths(lengths, device="cpu").with_isolated_prompt(is_maskable)
    near = {"atol": 2e-2, "rtol": 2e-2} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(segment_attention(q, k, v, layout).float(), dense, **near)


def test_long_segments_in_bfloat16_keep_no_weights_and_are_float32_rounded_once(rng):
    q, k, v = (torch.randn(MAX_BF16_LENGTH + 8, 2, 8, generator=rng).bfloat16() for _ in range(3))
    layout = SegmentLayout.from_lengths([MAX_BF16_LENGTH + 1, 7], device="cpu")
    wide = segment_attention(q.float(), k.float(), v.float(), layout)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = segment_attention(q, k, v, layout)
    assert torch.equal(narrow, wide.bfloat16())


def test_rotation_and_its_gradient_are_those_of_the_textbook_form(rng):
    x, grad = (torch.randn(5, 3, 8, generator=rng, dtype=torch.float64) for _ in "xg")
    angle = torch.randn(5, 4, generator=rng, dtype=torch.float64).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    first, second = theirs.chunk(2, dim=-1)
    textbook = theirs * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]
    turned = rotate(ours, cos, sin)
    turned.backward(grad)
    textbook.backward(grad)
    torch.testing.assert_close(turned, textbook)
    torch.testing.assert_close(ours.grad, theirs.grad)


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
    fast = segment_attention(q, k, v, SegmentLayout.from_lengths(lengths, device="cuda"))
    slow = segment_attention(
        q.cpu().float(),
        k.cpu().float(),
        v.cpu().float(),
        SegmentLayout.from_lengths(lengths, device="cpu"),
    )
    torch.testing.assert_close(fast.cpu().float(), slow, atol=2e-2, rtol=2e-2)
