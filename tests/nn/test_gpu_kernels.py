"""What GPU kernels are told, checked where there is none.

Stand-ins have the exact signatures of the kernels, check their arguments as the kernels do, and
compute attention from its definition.
"""

import importlib.machinery
import importlib.util
import inspect
import logging
import sys
import types

import numpy as np
import pytest
import torch

from lightning_omni.nn import segments
from lightning_omni.nn.segments import (
    SegmentLayout,
    attention_backend,
    attention_kernel,
    segment_attention,
)


def by_definition(q, k, v, starts_q, starts_k):
    """Attention within segments in float64, rounded once; key-value heads may be fewer."""
    shape, dtype, groups = q.shape, q.dtype, q.shape[1] // k.shape[1]
    q, k, v = q.double(), *(x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    parts = [torch.zeros_like(q[:0])]
    for a, b, c, d in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) / shape[-1] ** 0.5
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[c:d]))
    return torch.cat(parts).to(dtype)


def check(q, k, v, starts_q, starts_k, longest_q, longest_k):
    for x in (q, k, v):
        assert x.dtype in (torch.float16, torch.bfloat16)
        assert x.dtype == q.dtype
        assert x.device == q.device
        assert x.stride(-1) == 1
    assert k.shape == v.shape
    assert q.shape[1] % k.shape[1] == 0
    for x, starts, longest in ((q, starts_q, longest_q), (k, starts_k, longest_k)):
        assert starts.dtype is torch.int32
        assert starts.is_contiguous()
        assert starts.device == q.device
        assert type(longest) is int  # else the host waits for the device
        assert starts[0] == 0
        assert starts[-1] == len(x)
        assert longest >= starts.diff().max()
    assert len(starts_q) == len(starts_k)


class Kernel:
    """Signatures as released; `key_heads` notes what was handed over."""

    def __init__(self):
        self.key_heads = []

    def flash_attn(self):  # flash-attn 2.8, flash_attn_interface.py
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
            assert (dropout_p, softmax_scale, causal) == (0.0, None, False)
            assert (window_size, softcap, alibi_slopes) == ((-1, -1), 0.0, None)
            assert (return_attn_probs, block_table) == (False, None)
            return self.run(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)

        return flash_attn_varlen_func

    def varlen_causal(self):  # `is_causal` among the arguments
        def varlen_attn(
            query,
            key,
            value,
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            is_causal=False,
            return_aux=None,
        ):
            assert (is_causal, return_aux) == (False, None)
            return self.run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

        return varlen_attn

    def varlen_window(self):  # torch 2.11
        def varlen_attn(
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
            assert (return_aux, scale, window_size) == (None, None, (-1, -1))
            return self.run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)

        return varlen_attn

    def varlen_installed(self):  # torch 2.14 has `enable_gqa` and refuses fewer heads without it
        real = inspect.signature(pytest.importorskip("torch.nn.attention.varlen").varlen_attn)

        def varlen_attn(*args, **kwargs):
            given = real.bind(*args, **kwargs).arguments
            query, key = given["query"], given["key"]
            if "enable_gqa" in real.parameters:
                # with equal heads it would decide the forward pass's kernel, not the backward's
                assert bool(given.get("enable_gqa")) == (query.shape[1] != key.shape[1])
            assert given.keys() - set(list(real.parameters)[:7]) <= {"enable_gqa"}
            return self.run(*list(given.values())[:7])

        varlen_attn.__signature__ = real
        return varlen_attn

    def run(self, q, k, v, *extents):
        check(q, k, v, *extents)
        self.key_heads.append(k.shape[1])
        return by_definition(q, k, v, extents[0].tolist(), extents[1].tolist())


def install_flash(monkeypatch, function=None):
    module = types.ModuleType("flash_attn")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    module.flash_attn_varlen_func = function
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.fixture(params=["flash_attn", "varlen_causal", "varlen_window", "varlen_installed"])
def kernel(request, monkeypatch):
    made = Kernel()
    function = getattr(made, request.param)()
    if request.param == "flash_attn":
        install_flash(monkeypatch, function)
    else:
        varlen = pytest.importorskip("torch.nn.attention.varlen")
        monkeypatch.setattr(varlen, "varlen_attn", function)
    backend = "flash_attn" if request.param == "flash_attn" else "varlen"
    monkeypatch.setattr(segments, "attention_backend", lambda device: backend)
    return made


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("key_lengths", [None, [9, 4, 8, 3]])
def test_a_kernel_gets_what_gives_attention_within_segments(
    kernel, rng, key_lengths, isolated, dtype
):
    lengths = [5, 1, 7, 0]
    key_lengths = key_lengths or [5, 1, 7, 0]
    is_same = key_lengths == lengths
    q = torch.randn(sum(lengths), 4, 16, generator=rng)
    k, v = (torch.randn(sum(key_lengths), 2, 16, generator=rng) for _ in "kv")
    given = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in given]
    layout, key_layout = (
        SegmentLayout.from_lengths(n, device="cpu") for n in (lengths, key_lengths)
    )
    allowed = torch.zeros(sum(lengths), sum(key_lengths), dtype=torch.bool)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = torch.arange(len(lengths)).repeat_interleave(torch.tensor(key_lengths))
    allowed |= rows[:, None] == columns
    if isolated and is_same:
        is_maskable = torch.rand(sum(lengths), generator=rng) < 0.5
        layout = layout.with_isolated_prompt(is_maskable)
        allowed &= is_maskable[:, None] | ~is_maskable
    out = segment_attention(*given, layout, key_layout)
    wide = [x.transpose(0, 1) for x in exact]
    wide[1:] = (x.repeat_interleave(2, dim=0) for x in wide[1:])
    definition = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=allowed)
    definition = definition.transpose(0, 1)
    weight = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    (out.double() * weight).sum().backward()
    (definition * weight).sum().backward()
    close = {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(out.double(), definition, **close)
    for ours, theirs in zip(given, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, **close)
    assert set(kernel.key_heads) == {2}  # heads are not repeated


def test_equal_heads_are_handed_over_as_they_are(kernel, rng):
    q = torch.randn(6, 3, 8, generator=rng).to(torch.bfloat16)
    segment_attention(q, q, q, SegmentLayout.from_lengths([2, 4], device="cpu"))
    assert kernel.key_heads == [3]


def test_float32_does_not_go_to_a_kernel_for_half_precision(kernel, rng):
    q = torch.randn(6, 2, 8, generator=rng)
    segment_attention(q, q, q, SegmentLayout.from_lengths([2, 4], device="cpu"))
    assert not kernel.key_heads


def test_longest_lengths_are_numbers_of_the_host():
    layout = SegmentLayout.from_lengths([3, 6], device="cpu")
    subset = layout.select(torch.tensor([0, 4, 5]))
    isolated = layout.with_isolated_prompt(torch.arange(9) % 2 == 0).isolation
    found = (layout, subset, isolated.fixed_layout, isolated.maskable_layout)
    assert [type(one.max_length) for one in found] == [int] * 4
    assert [one.max_length for one in found] == [6] * 4  # a bound, the same for all
    assert [one.lengths for one in found] == [(3, 6), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("lengths", [[3, 1, 2], [0, 2, 0, 0, 3, 0], [4]])
def test_the_token_before_is_one_of_the_same_segment(lengths):
    layout = SegmentLayout.from_lengths(lengths, device="cpu")
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    expected = np.maximum(np.arange(sum(lengths)) - 1, starts).tolist()
    assert layout.previous_positions(sum(lengths)).tolist() == expected


@pytest.mark.parametrize(
    ("device", "capability", "installed", "backend"),
    [
        ("cuda", (9, 0), {"flash_attn", "varlen"}, "flash_attn"),
        ("cuda", (8, 0), {"varlen"}, "varlen"),
        ("cuda", (9, 0), set(), "sdpa"),
        ("cuda", (7, 5), {"flash_attn", "varlen"}, "sdpa"),
        ("cpu", None, {"flash_attn", "varlen"}, "sdpa"),
    ],
)
def test_the_kernel_follows_from_the_device_and_what_is_installed(
    monkeypatch, caplog, device, capability, installed, backend
):
    real = importlib.util.find_spec

    def find(name, *args):
        kind = {"flash_attn": "flash_attn", "torch.nn.attention.varlen": "varlen"}.get(name)
        return (kind in installed or None) if kind else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with caplog.at_level(logging.INFO, segments.__name__):
        assert attention_backend.__wrapped__(device) == backend
    assert f"attention backend on {device}: {backend}" in caplog.text


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "kernel"),
    [
        ("flash_attn", "cuda", torch.bfloat16, "flash_attn"),
        ("varlen", "cuda", torch.float16, "varlen"),
        ("flash_attn", "cuda", torch.float32, "sdpa"),
        ("sdpa", "cuda", torch.bfloat16, "sdpa"),
        ("sdpa", "cpu", torch.bfloat16, "bf16_attention"),
        ("sdpa", "cpu", torch.float32, "sdpa"),
    ],
)
def test_the_format_decides_beside_the_device(monkeypatch, backend, device, dtype, kernel):
    monkeypatch.setattr(segments, "attention_backend", lambda kind: backend)
    assert attention_kernel(device, dtype) == attention_kernel(device, dtype, 1024) == kernel
    is_widened = kernel == "bf16_attention"
    assert attention_kernel(device, dtype, 1025) == ("sdpa" if is_widened else kernel)
