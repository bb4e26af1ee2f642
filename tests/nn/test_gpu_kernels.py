"""What GPU kernels are told, checked where there is none.

Stand-ins have the exact signatures of the kernels and compute the same thing on the CPU.
"""

import importlib.util
import inspect
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from lightning_omni.nn import segments
from lightning_omni.nn.segments import SegmentLayout, segment_attention


def by_segments(q, k, v, starts_q, starts_k):
    """Rows H K; key-value heads may be fewer."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out = torch.empty_like(q)
    for a, b, c, d in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
        parts = (x.transpose(0, 1).float() for x in (q[a:b], k[c:d], v[c:d]))
        out[a:b] = F.scaled_dot_product_attention(*parts).transpose(0, 1).to(q.dtype)
    return out


def check_extents(starts, longest, total):
    assert starts.dtype is torch.int32
    assert starts[0] == 0
    assert starts[-1] == total
    assert longest == starts.diff().max()


# signature of flash-attn 2.8.3, flash_attn_interface.py
def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    assert (dropout_p, softmax_scale, causal, window_size) == (0.0, None, False, (-1, -1))
    assert k.shape[1] <= q.shape[1]
    check_extents(cu_seqlens_q, max_seqlen_q, len(q))
    check_extents(cu_seqlens_k, max_seqlen_k, len(k))
    return by_segments(q, k, v, cu_seqlens_q.tolist(), cu_seqlens_k.tolist())


def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
    assert options.get("window_size", (-1, -1)) == (-1, -1)
    assert query.shape[1] == key.shape[1] or options.get("enable_gqa")
    check_extents(cu_seq_q, max_q, len(query))
    check_extents(cu_seq_k, max_k, len(key))
    return by_segments(query, key, value, cu_seq_q.tolist(), cu_seq_k.tolist())


# signature of torch 2.11, which takes fewer key heads without being told
def varlen_attn_2_11(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
):
    assert scale is return_aux is None
    options = {"window_size": window_size, "enable_gqa": True}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)


@pytest.fixture(params=["flash_attn", "varlen", "varlen of torch 2.11"])
def kernel(request, monkeypatch):
    if request.param == "flash_attn":
        module = types.ModuleType("flash_attn")
        module.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, "flash_attn", module)
    else:
        varlen = pytest.importorskip("torch.nn.attention.varlen")
        real = inspect.signature(varlen.varlen_attn)

        def bound(*args, **kwargs):
            real.bind(*args, **kwargs)
            return varlen_attn(*args, **kwargs)

        bound.__signature__ = real
        is_old = request.param.endswith("2.11")
        monkeypatch.setattr(varlen, "varlen_attn", varlen_attn_2_11 if is_old else bound)
    kernel = request.param.partition(" ")[0]
    monkeypatch.setattr(segments, "attention_backend", lambda device: kernel)
    return request.param


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("key_lengths", [None, [9, 4, 8]])
def test_a_kernel_gets_what_gives_attention_within_segments(kernel, rng, key_lengths, isolated):
    lengths = [5, 1, 7]
    key_lengths = key_lengths or lengths
    q = torch.randn(sum(lengths), 4, 16, generator=rng).bfloat16()
    k, v = (torch.randn(sum(key_lengths), 2, 16, generator=rng).bfloat16() for _ in "kv")
    layout, key_layout = (
        SegmentLayout.from_lengths(n, device="cpu") for n in (lengths, key_lengths)
    )
    if isolated and key_lengths is lengths:
        layout = layout.with_isolated_prompt(torch.rand(sum(lengths), generator=rng) < 0.5)
    ours = segment_attention(q, k, v, layout, key_layout)
    wide = (x.float() for x in (q, k, v))
    exact = segment_attention(*wide, layout, key_layout)
    torch.testing.assert_close(ours.float(), exact, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        (("flash_attn", "torch.nn.attention.varlen"), "flash_attn"),
        (("torch.nn.attention.varlen",), "varlen"),
        ((), "sdpa"),
    ],
)
def test_the_kernel_is_chosen_by_what_is_installed_and_is_said(
    installed, backend, monkeypatch, caplog
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    segments.attention_backend.cache_clear()
    with caplog.at_level("INFO"):
        assert segments.attention_backend("cuda") == backend
        assert segments.attention_backend("cpu") == "sdpa"
    segments.attention_backend.cache_clear()
    assert f"attention backend on cuda: {backend}" in caplog.text


def test_float32_does_not_go_to_a_kernel_for_half_precision(kernel, rng, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(segments, "_flash", refuse)
    monkeypatch.setattr(segments, "_varlen", refuse)
    q = torch.randn(6, 2, 8, generator=rng)
    segment_attention(q, q, q, SegmentLayout.from_lengths([2, 4], device="cpu"))
