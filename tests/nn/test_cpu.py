"""Choice of the matmul dtype, and reuse of freed memory."""

import subprocess
import sys

import pytest
import torch

from lightning_omni.nn import cpu
from lightning_omni.nn.cpu import dtype_from_cpuinfo, matmul_dtype

PROGRAM = """
import ctypes, sys
from lightning_omni.nn.cpu import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 64 << 20
def pages():
    return int(open("/proc/self/statm").read().split()[1])
before = pages()
block = libc.malloc(size)
ctypes.memset(block, 1, size)
libc.free(block)
print((pages() - before) * 4096 / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(("how", "low", "high"), [("keep", 0.9, 1.2), ("default", -0.1, 0.1)])
def test_a_freed_block_stays_in_the_process_only_when_asked(how, low, high):
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert low < float(out.stdout) < high


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
def test_bfloat16_is_chosen_on_processors_where_it_is_faster(vendor, flags, dtype):
    assert dtype_from_cpuinfo(f"vendor_id : {vendor}\nflags : fpu {flags} tsc\n") is dtype


def test_without_cpuinfo_the_dtype_is_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "absent")
    matmul_dtype.cache_clear()
    assert matmul_dtype("cpu") is torch.float32
    matmul_dtype.cache_clear()
