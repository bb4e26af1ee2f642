"""The rule that picks the format of matrix products."""

import pytest
import torch

from lightning_omni.nn import cpu as precision
from lightning_omni.nn.cpu import dtype_for, matmul_dtype


@pytest.mark.parametrize(
    ("vendor", "flags", "dtype"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", torch.bfloat16),
        ("AuthenticAMD", "avx2 avx512f", torch.float32),
        ("GenuineIntel", "avx2 avx512_bf16", torch.float32),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", torch.bfloat16),
        ("", "asimd bf16", torch.float32),
    ],
)
def test_bfloat16_is_taken_where_processors_gain_by_it(vendor, flags, dtype):
    assert dtype_for(f"vendor_id : {vendor}\nflags : fpu {flags} tsc\n") is dtype


def test_a_machine_that_says_nothing_of_its_processor_computes_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "absent")
    matmul_dtype.cache_clear()
    assert matmul_dtype("cpu") is torch.float32
    matmul_dtype.cache_clear()
